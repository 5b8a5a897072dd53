"""What does a prompt ask for: which subject, in which overall style, with which attributes?

Two ways of writing are understood: the comma lists of the community ("smiling robot, (pencil
sketch:1.2), at night") and plain sentences ("I'd love a picture of a happy dog in the snow").
"""

import re

from diffgraph.agents.nouns import Nouns
from diffgraph.agents.words import EMPTY_WORDS, TERMINAL_CODE, content_words, plain
from diffgraph.prompting.syntax import read_prompt
from diffgraph.prompting.weights import weighted

LONGEST_PROMPT = 2_000
MOST_ATTRIBUTES = 12

_FLAGS = re.compile(r"\s--no\b.*|\s--\w+(?:\s+[^\s-]\S*)?", re.I | re.S)
_TAG = re.compile(r"<[^<>]{0,200}>")
_COUNTED = re.compile(r"\b\d\+?(boy|girl|man|woman|other)s?\b", re.I)
_ABSENT = re.compile(
    r"(?:,\s*|\s+(?:and|but)\s+|\s+|^)(?:without|no|not|free\s+of|minus)\s+(?!longer\b)[^,;.!?]*?"
    r"(?=\s+(?:and|but|with|in|at|on)\s|[,;.!?]|$)",
    re.I,
)

_QUALITY = re.compile(
    r"^(?:masterpiece|(?:best|high|highest|good|great|top|ultra|amazing)[\s-]*(?:quality|res\w*|details?)|absurdres|\d+k"
    r"|u?hd|hdr|(?:ultra|highly|very|super|extremely|intricate(?:ly)?)?[\s-]*(?:detailed|details?|realistic|sharp)"
    r"|trending\s+on\s+\w+|award[\s-]*winning|sharp\s+focus|raw\s+photo|score_\w+|very\s+aesthetic|cute|beautiful"
    r"|nice|high\s+(?:definition|resolution|clarity)|(?:extreme|hyper|insane(?:ly)?|best)[\s-]+(?:detail\w*|qualit\w*)"
    r"|artstation|trending|solo|(?:looking\s+at\s+)?viewer|\d+\s*(?:px|pixels?|mm))$",
    re.I,
)

_ARTICLE = r"(?:an?|the|my|our|your|some|one|this|that|its|his|her|their)"
_THING = (
    r"(?:picture|image|photo(?:graph)?|pic|illustration|drawing|render(?:ing)?|emoji|icon|artwork|piece\s+of\s+art"
    r"|depiction|version|scene|shot|portrait|graphic|avatar|logo|art)"
)
_PRAISE = (
    r"(?:really|very|nice|cute|beautiful|cool|simple|little|lovely|good|great|quick|pretty|funny"
    r"|single|new|small)"
)
_OPENINGS = tuple(
    re.compile(rf"^{pattern}\s+", re.I)
    for pattern in (
        r"(?:hey|hi|hello|ok(?:ay)?|so|now|and|also|but|then|well|please|pls|maybe|just)\b[,!]?",
        r"(?:can|could|would|will)\s+(?:you|we|i)(?:\s+(?:please|maybe|just|also|get|have|see))*",
        r"i(?:'?d|\s+would|'?m|\s+am|\s+really|\s+just|\s+also)*\s+"
        r"(?:love|like|want|wish|need|prefer|would\s+like|wanna|looking|imagine|imagining|thinking|picturing)"
        r"(?:\s+(?:you|it))?(?:\s+(?:to\s+(?:see|have|get|draw|make|be)|for|of))?",
        r"(?:it|he|she|they|everything|the\s+(?:whole\s+)?(?:picture|image|style|look|background|scene|thing))\s+"
        r"(?:should|must|could|has\s+to|needs\s+to|is|was|are)(?:\s+(?:be|look|have|feel)(?:\s+like)?)?",
        r"(?:draw|paint|create|generate|make|imagine|design|render|produce|show|give|get|do|sketch|illustrate|add|put)(?!\s+of\b)"
        r"(?:\s+(?:me|us|it|him|her|them|for\s+me))?(?:\s+(?:look|looks|be|feel))?(?:\s+like)?",
        r"(?:there\s+(?:is|are|should\s+be)|here\s+is|what\s+about|how\s+about|let'?s\s+(?:see|have|do))",
        rf"(?:{_ARTICLE}\s+)?(?:{_PRAISE}\s+)*{_THING}\s+(?:of|showing|with|that\s+shows|depicting|for|featuring)",
        rf"{_ARTICLE}",
        r"(?:something|anything)\s+(?:like|with)",
        r"(?:what|how)\s+(?:would|does|do|might|could)",
    )
)

_CONNECTIVES = (
    r"in\s+the\s+(?:style|form|shape|look|middle)\s+of|in\s+front\s+of|on\s+top\s+of|surrounded\s+by"
    r"|covered\s+(?:in|with)|bathed\s+in|lit\s+by|drawn\s+(?:as|in|with|like)"
    r"|painted\s+(?:as|in|with|like)|made\s+(?:as|in)|rendered\s+(?:as|in)"
    r"|done\s+(?:as|in)|shown\s+(?:as|in)|seen\s+(?:as|in|through|at)|turned\s+into"
    r"|(?:that\s+|which\s+)?(?:looks?|looking)\s+like|as\s+if|as\s+though|wearing|inside|within"
    r"|with|against|behind|underneath|during|through|amid|among|next\s+(?:to|door)|near|beside|over"
    r"|above|below|around|between|outside|across|from|into|onto|for|like|as|in|at|on|by"
)
_CLAUSE = re.compile(r"[,;:!?|\n]+|\.(?!\d)|\s+-+\s+")
_PARTICIPLES = r"(?:framed|glowing|shining|deep|tinted|shaded|casting|lit|made)"
_BOUND = re.compile(
    rf"\b{_PARTICIPLES}\s+"
    r"(?:(?:in|like|by|with|under|into|of|out|from|a|an|the|up)\s+)*|\b(?:under|beneath)\s+(?:the\s+)?",
    re.I,
)
"""What loses its sense without what leads up to it: `under water`, `glowing like fire`."""
_DOING = (
    r"(?:standing|sitting|lying|flying|running|walking|swimming|jumping|playing|eating|drinking"
    r"|sleeping|dancing|riding|driving|looking|floating|hiding|resting|waiting|going|coming)"
)
_SPLIT = re.compile(
    rf"\s+{_DOING}(?:\s+(?:{_CONNECTIVES}))?(?:\s+|$)|\s+(?:{_CONNECTIVES})\s+"
    rf"|\s+(?=(?:{_PARTICIPLES}|blurry|under|beneath)[_ ])",
    re.I,
)
_LED = re.compile(rf"^\s*(?:{_CONNECTIVES})\s+", re.I)
_LED_UP_TO = re.compile(rf"^\s*(?:{_CONNECTIVES}|{_PARTICIPLES}|under|beneath)\s", re.I)
_LEADING = re.compile(
    rf"^(?:(?:{_CONNECTIVES}|of|and|or|but|plus|also|then|is|are|it'?s|has|having|all|only|very"
    r"|really|quite|somewhat|slightly|a\s+(?:bit|touch|hint|lot|kind)\s+of|lots\s+of|please"
    rf"|{_ARTICLE})\s+)+",
    re.I,
)
_TRAILING = re.compile(
    r"(?:[\s-]+(?:styled?|look(?:ing)?|effects?|aesthetics?|vibes?|feel(?:ing)?|mood|themed?|version"
    r"|please|pls|thanks|thank\s+you|too|and|or|as\s+well|for\s+me|on\s+(?:it|top)"
    r"|(?:all\s+)?around(?:\s+it)?|behind\s+it|everywhere))+$",
    re.I,
)
_MEDIA = (
    r"(?:painting|drawing|sketch|print|poster|illustration|render|photo(?:graph)?|mosaic|sticker"
    r"|cartoon|comic|portrait|collage|carving|statue|figurine|blueprint|silhouette|engraving"
    r"|watercolou?r|negative|hologram|doodle|line\s+art|pixel\s+art|pop\s+art)"
)
_MEDIUM_OF = re.compile(
    rf"^(?P<medium>(?:[\w-]+\s+){{0,3}}?(?:{_MEDIA}|picture|image|emoji|icon|window|scene|version|art))"
    rf"\s+(?:of|showing|depicting)\s+(?:{_ARTICLE}\s+)?(?P<subject>.+)$",
    re.I,
)
_MEDIUM_AFTER = re.compile(
    rf"^(?P<subject>.*?\S)\s+(?P<medium>(?:die[\s-]cut\s+|pencil\s+|oil\s+)?{_MEDIA}|underwater)$",
    re.I,
)
_COLOUR = r"(?:black|white|red|green|blue|yellow|pink|purple|orange|brown|gr[ae]y|gold|silver|teal)"
_WHOLE_PAIRS = re.compile(
    rf"\b{_COLOUR}\s+(?:and|&)\s+{_COLOUR}\b|\b(?:salt\s+and\s+pepper|pen\s+and\s+ink)\b", re.I
)

STYLE_WORDS = frozenset(
    """
    3d 2d flat sketch sketched drawing drawn painting painted watercolor watercolour aquarelle
    pencil graphite charcoal ink crayon pastel oil acrylic gouache pixel pixelart 8-bit 16-bit
    voxel lowpoly cartoon comic manga anime noir sepia monochrome grayscale greyscale blueprint
    halftone glitch vhs retro vintage poster pop-art popart cubist impressionist minimal minimalist
    vector outline lineart engraving woodcut mosaic origami clay claymation plush embroidery
    stained-glass neon hologram holographic x-ray cyberpunk steampunk vaporwave noto twemoji
    contrast photo photographic photorealistic realistic inverted negative duotone
    """.split()
)
"""Words that name how a whole picture is made, whatever it shows."""

EFFECT_WORDS = STYLE_WORDS | frozenset(
    """
    golden gilded glowing fiery snowy rainy stormy foggy misty starry moonlit sunlit nighttime
    underwater dreamy blurry blurred faded antique striped checkered chequered dotted framed tinted
    shaded psychedelic metallic wooden marble icy frozen burning dark pastel-coloured tint
    """.split()
)
"""Words before a subject that ask for something an expert might add to any subject."""

_FINISH_WORDS = frozenset(
    """
    photograph old pixel pixels line pop stained glass film high low poly comic book icon emoji
    design glossy print technical colors colours colored coloured toned light lights focus soft
    digital dot stripe frame framed border background backdrop shadow drop outline outlines stripes
    dots polka checkerboard vignette snow snowing rain raining night scene sky sunset die cut
    sticker close closeup up angle low wide shot view pov full upper body front side
    red gold blue green black white thick corners spotlight dark sign bright warm cold
    """.split()
)
"""What names no subject if it stands alone or beside a style word."""

_COMPOUNDS = frozenset(
    "pixel art,pop art,stained glass,high contrast,line art,low poly,film noir,comic book,"
    "pencil sketch,oil painting,blue tint".split(",")
)


def cleaned(prompt: str) -> str:
    """Return a prompt without weights, tags, settings and what it asks to leave out."""
    prompt = TERMINAL_CODE.sub(" ", prompt[:LONGEST_PROMPT])
    chunks = weighted(read_prompt(prompt).text).chunks
    # brackets side by side are about different things
    parts = ((part.text if part.text.strip() else ", " for part in chunk) for chunk in chunks)
    text = ", ".join(map("".join, parts))
    text = plain(_FLAGS.sub(" ", _TAG.sub(" , ", text)).replace("\n", " , "))
    text = _COUNTED.sub(r"\1", text)
    text = re.sub(r"[()\[\]{}\"*_#]+", " ", text)
    return " ".join(_ABSENT.sub(" ", text).split())


def tagged(prompt: str) -> tuple[str, ...]:
    """Return the names in a prompt's tags: `<lora:NeonKnights_v2:0.8>` → `NeonKnights v2`.

    A tag is nothing to draw, but it names an expert that is wanted.
    """
    tags = read_prompt(prompt[:LONGEST_PROMPT]).tags
    return tuple(dict.fromkeys(plain(tag.name.replace("_", " ")) for tag in tags))


def phrases(prompt: str, nouns: Nouns) -> tuple[str, ...]:
    """Return what a cleaned prompt is made of, the subject first, without articles and fillers.

    Args:
        prompt: as `cleaned` returns it.
        nouns: tell a subject from the medium that follows it.
    """
    subjects: list[str] = []
    others: list[str] = []
    for clause in _CLAUSE.split(prompt):
        opened = _without_opening(clause)
        named, rest = _clause_parts(_LED.sub("", opened), nouns)
        may_be_subject = not subjects and not _LED_UP_TO.match(opened)
        pieces = [named] if may_be_subject else _split_and(named)
        for piece in filter(_says_something, map(_trimmed, pieces)):
            is_subject = may_be_subject and not _is_effect_only(piece)
            (subjects if is_subject else others).append(piece)
        for part in rest:
            others.extend(filter(_says_something, map(_trimmed, _split_and(part))))
    unique = {phrase.lower(): phrase for phrase in reversed([*subjects, *others])}
    return tuple(reversed(unique.values()))


def _clause_parts(clause: str, nouns: Nouns) -> tuple[str, list[str]]:
    """Return what a clause names first, and what it says about that."""
    bound = _BOUND.sub(lambda match: "_".join(match[0].split()) + " ", clause)
    medium = _MEDIUM_OF.match(bound)
    first, *rest = _SPLIT.split(medium["subject"] if medium else bound)
    if medium:
        rest.append(medium["medium"])
    after = _MEDIUM_AFTER.match(first)
    if (
        after and nouns.kinds_of(after["subject"]) and not _is_effect_only(after["subject"])
    ):  # "hedgehog sticker", but not "pencil sketch"
        first = after["subject"]
        rest.insert(0, after["medium"])
    return first.replace("_", " "), [part.replace("_", " ") for part in rest]


def effects_before(subject: str) -> tuple[str, ...]:
    """Return the words before a subject's noun that an expert might add: `neon cat` → `neon`."""
    tokens = subject.lower().split()
    found: list[str] = []
    place = 0
    while place < len(tokens) - 1:
        pair = " ".join(tokens[place : place + 2]).replace("-", " ")
        if pair in _COMPOUNDS and place + 2 < len(tokens):
            found.append(pair)
            place += 2
        else:
            word = tokens[place].removesuffix("-style").removesuffix("-styled")
            if word in EFFECT_WORDS:
                found.append(word)
            place += 1
    return tuple(found)


def is_overall_style(phrase: str) -> bool:
    """Tell whether a phrase names how the whole picture is made."""
    text = phrase.lower()
    return (
        text in STYLE_WORDS
        or any(word in STYLE_WORDS for word in text.replace("-", " ").split())
        or any(compound in text for compound in _COMPOUNDS)
    )


def _is_effect_only(phrase: str) -> bool:
    """Tell whether a phrase names no subject: "pixel art", "an old photograph"."""
    parts = (part for word in content_words(phrase) for part in word.split("-"))
    return all(part in EFFECT_WORDS or part in _FINISH_WORDS for part in parts)


def _without_opening(clause: str) -> str:
    """Return a clause without what leads up to its content: "could you draw me a …"."""
    text = clause.strip()
    while True:
        before = text
        for opening in _OPENINGS:
            text = opening.sub("", text + " ").strip()
        if text == before:
            return text


def _split_and(phrase: str) -> list[str]:
    if _WHOLE_PAIRS.search(phrase):
        return [phrase]
    return re.split(r"\s+(?:and|&|plus)\s+|\s*\+\s*", phrase)


def _trimmed(phrase: str) -> str:
    text = phrase.strip(" .'-")
    while True:
        before = text
        text = _TRAILING.sub("", _LEADING.sub("", text)).strip(" .'-")
        if text == before:
            return text


def _says_something(phrase: str) -> bool:
    if _QUALITY.match(phrase):
        return False
    return any(word not in EMPTY_WORDS for word in content_words(phrase))


def attributes_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a prompt's phrases ask for besides the subject, at most a dozen."""
    subject, *rest = parts
    # "pixel art" or "a snowy night" alone: there is no subject, what is there is for adapters
    asked = parts if _is_effect_only(subject) else rest
    found = dict.fromkeys(phrase.lower() for phrase in asked)
    for effect in effects_before(subject):
        if not any(effect in phrase for phrase in found):
            found[effect] = None
    return tuple(found)[:MOST_ATTRIBUTES]
