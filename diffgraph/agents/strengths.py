"""How strongly does a page, or a prompt, say that an expert is to be merged?"""

import re
from collections.abc import Callable

from diffgraph.agents.markup import page_lines
from diffgraph.agents.titles import parted
from diffgraph.agents.words import content_stems, plain
from diffgraph.experts.expert import Listing

LONGEST_ADVICE = 20_000  # characters that are looked at

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
    text = _PERCENT.sub(lambda match: f"{int(match[1]) / 100:.2f}", plain(text, LONGEST_ADVICE))
    text = _OTHER_NUMBERS.sub(" ", text)
    for pattern in _STRENGTHS:
        for match in pattern.finditer(text):
            low = float(match["low"].replace(",", "."))
            high = float((match["high"] or match["low"]).replace(",", "."))
            middle = (low + high) / 2
            if 0.0 < middle <= 2.0:
                return round(middle, 3)
    return None


def strength_of(listing: Listing) -> float | None:
    """Return what a page recommends, else what its example prompts use; None if neither."""
    advised = recommended_strength("\n".join(page_lines(listing.description)))
    if advised is not None or listing.type.lower() == "checkpoint":
        return advised  # the tags in a checkpoint's prompts are of other experts
    found = sorted(filter(None, map(_used_strength(listing), listing.example_prompts)))
    return found[len(found) // 2] if found else None


def _used_strength(listing: Listing) -> Callable[[str], float | None]:
    """Return a function from an example prompt to the strength it gives this expert."""
    file = listing.file.name if listing.file else ""
    own = content_stems(parted(f"{listing.name} {file.rpartition('.')[0]}"))

    def used(prompt: str) -> float | None:
        tags = re.findall(r"<(?:lora|lyco):[^<>]{1,120}>", prompt, re.I)
        mine = [tag for tag in tags if own & content_stems(parted(tag[6:]))]
        if mine or len(tags) == 1:
            return recommended_strength((mine or tags)[0])
        return None

    return used
