"""What does a prompt ask for: which subject, in which overall style, with which attributes?

Two ways of writing are understood: the comma lists of the community ("smiling robot, (pencil sketch:1.2), at
night") and plain sentences ("I'd love a picture of a happy dog in the snow").
"""

import re

from diffgraph.agents.words import EMPTY_WORDS, content_words, plain

LONGEST_PROMPT = 2_000
MOST_ATTRIBUTES = 12

_NEGATIVE_PART = re.compile(r"\bnegative\s+prompt\s*:.*", re.I | re.S)
_SETTINGS_LINE = re.compile(r"^\s*steps\s*:\s*\d.*", re.I | re.M)
_FLAGS = re.compile(r"\s--no\b.*|\s--\w+(?:\s+[^\s-]\S*)?", re.I | re.S)
_TAG = re.compile(r"<[^<>]{0,200}>")
_SWITCH = re.compile(r"\[([^\[\]:|]*)[:|][^\[\]]*\]")
_WEIGHTED = re.compile(r"\(([^()]*?):\s*-?\d*\.?\d+\s*\)")
_KEYWORD = re.compile(r"\b(?:BREAK|AND)\b")
_ABSENT = re.compile(
    r"(?:,\s*|\s+(?:and|but)\s+|\s+|^)(?:without|no|not|free\s+of|minus)\s+(?!longer\b)[^,;.!?]*?"
    r"(?=\s+(?:and|but|with|in|at|on)\s|[,;.!?]|$)",
    re.I,
)

_QUALITY = re.compile(
    r"^(?:masterpiece|(?:best|high|highest|good|great|top|ultra|amazing)[\s-]*(?:quality|res\w*|details?)|absurdres|\d+k"
    r"|u?hd|hdr|(?:ultra|highly|very|super|extremely|intricate(?:ly)?)?[\s-]*(?:detailed|details?|realistic|sharp)"
    r"|trending\s+on\s+\w+|award[\s-]*winning|sharp\s+focus|raw\s+photo|score_\w+|very\s+aesthetic|cute|beautiful"
    r"|nice|high\s+definition|\d+\s*(?:px|pixels?))$",
    re.I,
)

_ARTICLE = r"(?:an?|the|my|our|your|some|one|this|that|its|his|her|their)"
_THING = (
    r"(?:picture|image|photo(?:graph)?|pic|illustration|drawing|render(?:ing)?|emoji|icon|artwork|piece\s+of\s+art"
    r"|depiction|version|scene|shot|portrait|graphic|avatar|logo|art)"
)
_PRAISE = r"(?:really|very|nice|cute|beautiful|cool|simple|little|lovely|good|great|quick|pretty|funny|single|new|small)"
_OPENINGS = tuple(
    re.compile(rf"^{pattern}\s+", re.I)
    for pattern in (
        r"(?:hey|hi|hello|ok(?:ay)?|so|now|and|also|but|then|well|hmm|please|pls|maybe|perhaps|just|finally)\b[,!]?",
        r"(?:can|could|would|will)\s+(?:you|we|i)(?:\s+(?:please|maybe|just|also|get|have|see))*",
        r"i(?:['’]?d|\s+would|['’]?m|\s+am|\s+really|\s+just|\s+also)*\s+"
        r"(?:love|like|want|wish|need|prefer|would\s+like|wanna|looking|imagine|imagining|thinking|picturing)"
        r"(?:\s+(?:you|it))?(?:\s+(?:to\s+(?:see|have|get|draw|make|be)|for|of))?",
        r"(?:it|he|she|they|everything|the\s+(?:whole\s+)?(?:picture|image|style|look|background|scene|thing))\s+"
        r"(?:should|must|could|has\s+to|needs\s+to|is|was|are)(?:\s+(?:be|look|have|feel)(?:\s+like)?)?",
        r"(?:draw|paint|create|generate|make|imagine|design|render|produce|show|give|get|do|sketch|illustrate|add|put)"
        r"(?:\s+(?:me|us|it|him|her|them|for\s+me))?(?:\s+(?:look|looks|be|feel))?(?:\s+like)?",
        r"(?:there\s+(?:is|are|should\s+be)|here\s+is|what\s+about|how\s+about|let['’]?s\s+(?:see|have|do))",
        rf"(?:{_ARTICLE}\s+)?(?:{_PRAISE}\s+)*{_THING}\s+(?:of|showing|with|that\s+shows|depicting|for|featuring)",
        rf"{_ARTICLE}",
        r"(?:something|anything)\s+(?:like|with)",
        r"(?:what|how)\s+(?:would|does|do|might|could)",
    )
)

_CONNECTIVES = (
    r"in\s+the\s+(?:style|form|shape|look|middle)\s+of|in\s+front\s+of|on\s+top\s+of|surrounded\s+by|covered\s+(?:in|with)"
    r"|bathed\s+in|lit\s+by|drawn\s+(?:as|in|with|like)|painted\s+(?:as|in|with|like)|made\s+(?:of|from|out\s+of|as|in)"
    r"|rendered\s+(?:as|in)|done\s+(?:as|in)|shown\s+(?:as|in)|seen\s+(?:as|in|through|at)|turned\s+into"
    r"|(?:that\s+|which\s+)?(?:looks?|looking)\s+like|as\s+if|as\s+though|wearing|inside|within|with|against|behind|beneath"
    r"|underneath|under|during|through|amid|among|like|as|in|at|on|by"
)
_SPLIT = re.compile(rf"\s+(?:{_CONNECTIVES})\s+", re.I)
_LEADING = re.compile(
    rf"^(?:(?:{_CONNECTIVES}|of|and|or|but|plus|also|then|is|are|it['’]?s|has|having|all|only|very|really|quite|somewhat"
    rf"|slightly|a\s+(?:bit|touch|hint|lot|kind)\s+of|lots\s+of|please|{_ARTICLE})\s+)+",
    re.I,
)
_TRAILING = re.compile(
    r"(?:[\s-]+(?:styled?|look(?:ing)?|effects?|aesthetics?|vibes?|feel(?:ing)?|mood|themed?|version|please|pls|thanks"
    r"|thank\s+you|too|and|or|as\s+well|for\s+me|on\s+(?:it|top)|(?:all\s+)?around(?:\s+it)?|behind\s+it|everywhere))+$",
    re.I,
)
_MEDIUM_OF = re.compile(
    rf"^(?P<medium>(?:[\w-]+\s+){{0,3}}?(?:painting|drawing|sketch|print|poster|illustration|render|photo(?:graph)?|mosaic"
    rf"|picture|image|sticker|cartoon|comic|portrait|emoji|icon|window|scene|version|collage|carving|statue|figurine))"
    rf"\s+(?:of|showing|depicting)\s+(?:{_ARTICLE}\s+)?(?P<subject>.+)$",
    re.I,
)
_WHOLE_PAIRS = re.compile(
    r"\b(?:black|white|red|green|blue|yellow|pink|purple|orange|brown|gr[ae]y|gold|silver|teal|salt|rock|pen|pros)\s+"
    r"(?:and|&)\s+(?:black|white|red|green|blue|yellow|pink|purple|orange|brown|gr[ae]y|gold|silver|teal|pepper|roll|ink|cons)\b",
    re.I,
)

STYLE_WORDS = frozenset(
    """
    3d 2d flat sketch sketched drawing drawn painting painted watercolor watercolour aquarelle pencil graphite charcoal
    ink crayon pastel oil acrylic gouache pixel pixelart 8-bit 16-bit voxel lowpoly cartoon comic manga anime noir sepia
    monochrome grayscale greyscale blueprint halftone glitch vhs retro vintage poster pop-art popart cubist
    impressionist minimal minimalist vector outline lineart engraving woodcut mosaic origami clay claymation plush
    embroidery stained-glass neon hologram holographic x-ray cyberpunk steampunk vaporwave
    noto twemoji contrast photo photographic photorealistic realistic inverted negative duotone
    """.split()
)
"""Words that name how a whole picture is made, whatever it shows."""

EFFECT_WORDS = STYLE_WORDS | frozenset(
    """
    golden gilded glowing fiery snowy rainy stormy foggy misty starry moonlit sunlit nighttime underwater dreamy blurry
    blurred faded antique striped checkered chequered dotted framed tinted shaded psychedelic metallic wooden marble icy
    frozen burning dark pastel-coloured tint
    """.split()
)
"""Words before a subject that ask for something an expert might add to any subject."""

_MEDIA = frozenset(
    "photograph old pixel line pop stained glass film high low poly oil comic book".split()
)
"""What may stand beside a style word without naming a subject."""

_COMPOUNDS = frozenset({"pixel art", "pop art", "stained glass", "high contrast", "line art", "low poly", "film noir",
                        "comic book", "pencil sketch", "oil painting", "blue tint"})  # fmt: skip


def cleaned(prompt: str) -> str:
    """Return a prompt without weights, tags, settings and what it asks to leave out."""
    text = _NEGATIVE_PART.sub(" ", prompt[:LONGEST_PROMPT])
    text = _SETTINGS_LINE.sub(" ", text)
    text = _FLAGS.sub(" ", _TAG.sub(" , ", text.replace("\\(", " ").replace("\\)", " ")))
    text = plain(text.replace("\n", " , "))
    for _ in range(4):  # weights may be nested, a few deep
        text = _SWITCH.sub(r"\1", _WEIGHTED.sub(r"\1", text))
    text = _KEYWORD.sub(",", text)
    text = re.sub(r"[()\[\]{}\"“”*_#]+", " ", text)
    return " ".join(_ABSENT.sub(" ", text).split())


def phrases(prompt: str) -> tuple[str, ...]:
    """Return what a cleaned prompt is made of, the subject first, each without articles and fillers."""
    found: list[str] = []
    for clause in re.split(r"[,;:!?|\n]+|\.(?!\d)|\s+[-–—]+\s+", prompt):
        opened = _without_opening(clause)
        medium = _MEDIUM_OF.match(opened)
        if medium:
            parts = [medium["subject"], medium["medium"]]
            opened = ""
        else:
            parts = []
        heads = _SPLIT.split(parts[0]) if parts else _SPLIT.split(opened)
        for place, part in enumerate([*heads, *parts[1:]]):
            is_subject = not found and place == 0
            pieces = [part] if is_subject else _split_and(part)
            found.extend(piece for piece in map(_trimmed, pieces) if _says_something(piece))
    unique: dict[str, str] = {}
    for phrase in found:
        unique.setdefault(phrase.lower(), phrase)
    subject = next((phrase for phrase in unique if not _is_effect_only(phrase)), None)
    if subject is None:
        return tuple(unique.values())
    return (unique.pop(subject), *unique.values())


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
    return any(word in STYLE_WORDS for word in phrase.lower().replace("-", " ").split()) or (
        phrase.lower() in STYLE_WORDS
    )


def _is_effect_only(phrase: str) -> bool:
    """Tell whether a phrase names no subject: "pixel art", "an old photograph"."""
    return all(word in EFFECT_WORDS or word in _MEDIA for word in content_words(phrase))


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
    text = phrase.strip(" .'’-")
    while True:
        before = text
        text = _TRAILING.sub("", _LEADING.sub("", text)).strip(" .'’-")
        if text == before:
            return text


def _says_something(phrase: str) -> bool:
    if _QUALITY.match(phrase):
        return False
    return any(word not in EMPTY_WORDS for word in content_words(phrase))


def attributes_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a prompt's phrases ask for besides the subject, at most a dozen."""
    subject, *rest = parts
    found = dict.fromkeys(phrase.lower() for phrase in rest)
    for effect in effects_before(subject):
        if not any(effect in phrase for phrase in found):
            found[effect] = None
    return tuple(found)[:MOST_ATTRIBUTES]
