"""What does an expert's page say, once markup, advertising and orders to the reader are gone?

A page is written by a stranger. It is read with the standard library's parser, never rendered, and
its sentences are only ever quoted: one that speaks to a language model is dropped like one that
asks for money.
"""

import re
from html.parser import HTMLParser

from diffgraph.agents.words import content_words, plain

LONGEST_PAGE = 100_000  # characters of markup that are looked at
LONGEST_TEXT = 20_000  # characters of text that are kept of it
LONGEST_SENTENCE = 300

_UNSEEN = frozenset(
    """script style template noscript iframe object embed svg canvas head title select textarea
    form""".split()
)
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_BLOCKS = frozenset(
    """address article aside blockquote br dd div dl dt figcaption footer h1 h2 h3 h4 h5 h6 header
    hr li main nav ol p pre section table td th tr ul""".split()
)
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])|opacity\s*:\s*0(?![.\d])"
    r"|color\s*:\s*transparent"
)


class _Reader(HTMLParser):
    """Collects the text a person would see; a block starts a new line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._open: list[tuple[str, bool]] = []  # (tag, whether it hides its content)
        self._length = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
            if self._open and self._open[-1][0] == tag and tag in {"p", "li"}:
                self._open.pop()  # a browser closes these by itself
        if tag not in _VOID:
            self._open.append((tag, tag in _UNSEEN or _is_hidden(dict(attrs))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == tag:
                del self._open[place:]
                return

    def handle_data(self, data: str) -> None:
        if self._length < LONGEST_TEXT and not any(hides for _, hides in self._open[-64:]):
            self.parts.append(data)
            self._length += len(data)


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    style = (attributes.get("style") or "").lower()
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or bool(_HIDING.search(style))
    )


def page_lines(html: str) -> tuple[str, ...]:
    """Return the visible text of a page, a line a block, without markup or control characters."""
    reader = _Reader()
    reader.feed(html[:LONGEST_PAGE])
    reader.close()
    lines = "".join(reader.parts)[:LONGEST_TEXT].split("\n")
    return tuple(line for line in (plain(line) for line in lines) if line)


_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+(?=[^\s])|\s*[•|►→]\s*|\s+[-*]{1,3}\s+(?=[A-Z])")
_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\S+@\S+\.\w+|\b[\w-]+\.(?:com|net|org|io|gg|ai|ly)\b\S*", re.I
)

_NOT_A_SKILL = re.compile(
    r"""
    \b(?:
      patreon|ko-?fi|paypal|donat\w*|support(?:ing)?\s+(?:me|my|us)|buy\s+me|commissions?
    | tips?\s+(?:are|me)|discord|twitter|instagram|youtube|telegram|follow|subscribe|newsletter
    | socials?|(?:don't|do\s+not)\s+forget|(?:leave|post|share)\s+(?:a|an|your|me|some)\b
    | drop\s+(?:me|us|a\s+(?:comment|like|line|review))\b|likes?\s+(?:and|this|it|if)
    | heart\s+(?:and|this|if)|reviews?|ratings?|(?:five|5)\s+stars|comments?|feedback
    | thank(?:s|\s+you)|credits?\b|downloads?|install\w*|unzip|folder|director(?:y|ies)
    | extensions?|web-?ui|a1111|automatic1111|comfy\w*|invokeai|restart|update[ds]?|changelog
    | bugs?\s?fix\w*|(?:at|than|above|below)\s+[01][.,]\d|in\s+(?:your|the)\s+prompt
    | hugging\s?face|civitai|github|google\s+drive|torrent|licen[cs]e|permission|commercial
    | copyright|resell|re-?upload|disclaimer|epochs?|learning\s+rate|dataset|batch\s+size|kohya
    | trained\s+(?:on|with|for|using)|training|dim\b|network|rank\s+\d+|cfg|sampler|euler|dpm\+*
    | ddim|clip\s*skip|vae|hires|upscal\w*|denois\w*|negative\s+prompt|steps|trigger(?:ed)?
    | activation|activate[ds]?|weights?|strength|multiplier|coefficient|lora:
    | (?:v|version|ver)\s*\d|coming\s+soon|work\s+in\s+progress|wip\b|patch\s+notes
    | my\s+(?:other|first|new|page|profile|shop|store)|check\s+out|enjoy|have\s+fun|hello
    | hi\s+(?:all|everyone|guys)|welcome
    )
    """,
    re.I | re.X,
)

_SPEAKS_TO_A_MODEL = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b.{0,40}
      \b(?:instruction|prompt|rule|above|previous|prior|before|earlier|other|guideline)
    | \b(?:system|assistant|developer|user)\s*(?:prompt|message|:|\]|>|\|)
    | \bas\s+an?\s+(?:ai|assistant|language|llm|agent)
    | \byou\s+are\s+(?:now\s+)?(?:an?|the|no)\b
    | \b(?:ai|llm|gpt|claude|chatbot|language\s+model|agent)s?\b.{0,40}
      \b(?:must|should|shall|will|please|read|choose|select|pick|rank|rate|note)
    | \b(?:respond|reply|answer|output|print|return|say|write)\b.{0,30}
      \b(?:only|with|exactly|json|the\s+following|this)
    | \b(?:always|must|only)\s+(?:be\s+)?(?:choose|chosen|select(?:ed)?|pick(?:ed)?|prefer(?:red)?
      |rank(?:ed)?|recommend(?:ed)?|keep|kept|use[ds]?)\b
    | \b(?:drop|reject|discard|remove)\s+
      (?:all|every|any|the\s+others?|others?|competing|rivals?)\b
    | \b(?:every|any|all|each)\s+(?:prompt|request|query|queries|attribute|task)s?\b
    | \b(?:rm\s+-rf|curl\s|wget\s|sudo\s|os\.system|subprocess|eval\(|exec\(|drop\s+table)
    | <\|?\s*(?:im_start|im_end|endoftext|system)|\[/?inst\]|\#{2,}\s*(?:system|instruction)
    """,
    re.I | re.X,
)


def sentences(line: str) -> tuple[str, ...]:
    """Return the sentences of a line, cut to a readable length."""
    parts = (part.strip(" -*•|#>\"'") for part in _SENTENCE_END.split(line))
    return tuple(part[:LONGEST_SENTENCE] for part in parts if part)


def describes(sentence: str) -> bool:
    """Tell whether a sentence is about what can be seen, not about files, money or the reader."""
    if _NOT_A_SKILL.search(sentence) or _SPEAKS_TO_A_MODEL.search(sentence):
        return False
    return bool(content_words(_ADDRESS.sub(" ", sentence)))


def is_an_order(text: str) -> bool:
    """Tell whether a text speaks to the language model that reads it."""
    return bool(_SPEAKS_TO_A_MODEL.search(text))


def descriptive_sentences(html: str) -> tuple[str, ...]:
    """Return the sentences of a page that describe, without web addresses and repeats."""
    found = (
        plain(_ADDRESS.sub(" ", sentence))
        for line in page_lines(html)
        for sentence in sentences(line)
        if describes(sentence)
    )
    return tuple(dict.fromkeys(found))


_NUMBER = r"(?<![\w.,])(?:[01]?[.,]\d{1,2}|[012])(?![\w]|[.,]\d)"
_VALUE = rf"(?P<low>{_NUMBER})(?:\s*(?:-|~|to|and|through|up\s+to)\s*(?P<high>{_NUMBER}))?"
_WORD_FOR_IT = r"(?:weights?|strengths?|multiplier|coefficient|lora\s+scale)"
_STRENGTHS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"\b{_WORD_FOR_IT}\b[^.!?\n\d]{{0,40}}?{_VALUE}",
        rf"{_VALUE}[^.!?\n\d,]{{0,25}}?\b{_WORD_FOR_IT}\b",
        r"\b(?:used?|using|works?|best|recommend\w*|ideal\w*|try|set|keep|run|sweet\s+spot)\b"
        rf"[^.!?\n\d]{{0,30}}?\b(?:at|between|around|about|from|is|of|:)\s*~?{_VALUE}",
        rf"<(?:lora|lyco):[^:<>]{{1,80}}:{_VALUE}>",
    )
)
_PERCENT = re.compile(r"(?<![\d.])(\d{2,3})\s?%")
_OTHER_NUMBERS = re.compile(
    r"denois\w*(?:\s+strength)?\s*(?:at|of|:|=)?\s*[\d.]+|\b(?:cfg|clip\s*skip|steps|hires\s*\w*)\b\W*[\d.]+"
    r"|\b(?:sd|sdxl|flux|version|ver|v)[\s.]?\d[\d.]*",
    re.I,
)


def recommended_strength(text: str) -> float | None:
    """Return the strength a text recommends, in (0, 2], the middle of a range; None if none."""
    text = _PERCENT.sub(lambda match: f"{int(match[1]) / 100:.2f}", plain(text, LONGEST_TEXT))
    text = _OTHER_NUMBERS.sub(" ", text)
    for pattern in _STRENGTHS:
        for match in pattern.finditer(text):
            low = float(match["low"].replace(",", "."))
            high = float((match["high"] or match["low"]).replace(",", "."))
            middle = (low + high) / 2
            if 0.0 < middle <= 2.0:
                return round(middle, 3)
    return None
