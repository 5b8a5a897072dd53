"""What is an expert called, and which of its words name something to be seen?

Titles, tags and trigger words of hub pages, without versions, formats, hardware and keys to press.
"""

import re

from diffgraph.agents.injections import is_injection
from diffgraph.agents.pages import tidy
from diffgraph.agents.words import plain

LONGEST_TITLE = 80

_GLUED = re.compile(r"(?<=[a-z])(?:LoRA|Lora|LORA|LoCon|LyCORIS|LoHa)(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z]{2})(?=[A-Z])")
_NAME_NOISE = re.compile(
    r"\[[^\]]*\]|\([^)]*\)|\b(?:lora|locon|lycoris|loha|lokr|dora|checkpoint|model|extraction)s?\b"
    r"|\bv(?:er(?:sion)?)?\.?\s*\d[\w.-]*|\.(?:safetensors|ckpt|pt)\b|\b(?:fp16|fp32|bf16|pruned|ema)\b"
    r"|\bbaked\s*vae\b|\b(?:no|with)?\s*vae\b|\b(?:sd|sdxl|flux)\s?[\d.]+(?:[-\s](?:512|768))?\b"
    r"|\b(?:epoch|step)s?\s*\d+\b|[-\s](?:alpha|beta|final|test|full|fixed|updated?)(?=[\s\d_-]|$)"
    r"|[-_]\d+k\b|^\s*\d+\.[\d.]*\s|\s(?:-?\d{1,2}|0\d+|[\d-]*\.[\d.-]+|\d[\d-]*-\d+)\s*$|\binpainting\b",
    re.I,
)
_QUALITY_TAG = re.compile(
    r"^(?:(?:highly|ultra|very)\s+detailed|(?:high|best|hi)[\s-]*(?:quality|res\w*)|master\s*piece|general"
    r"(?:\s+use)?|mixed\s+model|mine|other|trending|artstation|viewer|intricate|camera|absurdres|solo"
    r"|[\d.]+|8k|4k|uhd|hdr|nsfw|sfw|celeb(?:rity)?|real\s+person|upper\s+body|full\s+body|looking\s+\w+"
    r"|greg\s+rutkowski|artgerm|alphonse\s+mucha|wlop|(?:by\s+)?\w+\s+on\s+artstation|(?:nikon|canon|sony|kodak)\b.*|.*\bkodak\b.*|.*\blens\b|\d+\s*mm.*|pov|close\s+up)$",
    re.I,
)
_OPAQUE = re.compile(r"[a-z]\d[a-z]|\d[a-z]+\d", re.I)
_GENERIC_TAGS = frozenset(
    """
    style styles concept concepts base_model tool tools character celebrity clothing
    background object objects animal emoji emoji64 emojis icon icons lora locon lycoris checkpoint
    art artwork design other misc effect effects treatment enhancer quality detail details
    """.split()
)


def readable_name(name: str) -> str:
    """Return a page's title without version and format, `PencilSketch_v2` as `Pencil Sketch`."""
    whole = tidy(plain(name, 200))
    if is_injection(whole):
        return ""
    text = _GLUED.sub(" ", whole).replace("_", " ")
    for _ in range(2):
        text = _CAMEL.sub(" ", _NAME_NOISE.sub(" ", f" {text} ".replace("  ", " ")))
    text = re.sub(r"(?:\s*,)+(?:\s|$)", ", ", text)
    text = " ".join(_said_once(text.split())).strip(" -|:/&,.\"'")
    return (text if any(map(str.isalnum, text)) else whole)[:LONGEST_TITLE]


def _said_once(words: list[str]) -> list[str]:
    """Return a title without its repetition: hubs put the page's name before the version's."""
    lower = [word.lower().strip("-,.:") for word in words]
    for half in range(len(words) // 2, 0, -1):
        if lower[:half] == lower[half : 2 * half]:
            return words[half:]
    return words


def spoken(trigger: str) -> str:
    """Return a trigger word as one would say it: `pixel_art_style` → `pixel art style`."""
    return " ".join(re.sub(r"[_\-]+", " ", trigger).split())


def parted(text: str) -> str:
    """Return a name with its words apart: `PencilSketch_v2` → `Pencil Sketch v2`."""
    return spoken(_CAMEL.sub(" ", text))


def names_a_skill(words: str) -> bool:
    """Tell whether a tag or trigger word says what an expert does, not how good or which it is."""
    if words.lower().replace(" ", "_") in _GENERIC_TAGS:
        return False
    return not _QUALITY_TAG.match(words)


def is_opaque(trigger: str) -> bool:
    """Tell whether a trigger word is made up, such as `c0nc3pt`: a key to press, no description."""
    return bool(_OPAQUE.search(trigger))
