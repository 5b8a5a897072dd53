"""Which base model is a file made for, by its header and by its keys?

A header that states another base than ours is believed: a text encoder's part of an SDXL LoRA would
fit SD 1.x, and Chroma's would fit FLUX. Keys and shapes give a name to what does not fit.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.key_cache import KEYS_KEPT, known_by
from diffgraph.experts.weights_file import WeightsFile, shown

TEXT_WIDTHS: Mapping[int, str] = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""The width of what a UNet's cross-attention sees -> its family."""
CROSS_ATTENTION = re.compile(
    r".*(?:down|up|mid|input|output|middle)_?blocks?[._].*attn2[._](?:processor\.)?to_[kv](?:_lora)?"
    r"(?:\.weight|\.lora_down\.weight|\.lora_A\.(?:\w+\.)?weight|\.down\.weight"
    r"|\.lora\.down\.weight|\.hada_w1_b)"
)
JOINT_ATTENTION = re.compile(
    r"(?:[a-z_]+[._])*?transformer_blocks[._]\d+[._](attn[12]?)[._]to_q\."
    r"(?:weight|lora_down\.weight|lora_A\.(?:\w+\.)?weight|hada_w1_b)"
)
JOINT_WIDTHS: Mapping[tuple[str, int], str] = {
    **{("attn", 1536): "SD 3", ("attn", 2432): "SD 3", ("attn", 3072): "FLUX"},
    **{("attn1", 1152): "PixArt", ("attn1", 2240): "Sana"},
    **{("attn1", 2048): "LTX-Video", ("attn1", 4096): "LTX-Video"},
    **{("attn1", 1920): "CogVideoX", ("attn1", 3072): "CogVideoX"},
}
"""The attention of a transformer whose blocks stand alone, and its width -> the family."""
REFINED = re.compile(
    r".*(?:layers|refiner)[._]\d+[._].*(?:qkv|to_q)\.(?:weight|lora_(?:down|A)\.\S+)"
)
Z_IMAGE_WIDTH = 3840

_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
KEYS: tuple[tuple[str, str], ...] = tuple(map(tuple, _TABLES["keys"]))
"""Family -> what stands in keys of no other family before it; every number is written 0."""
ANY_KEY = re.compile("|".join(f"(?P<f{at}>{pattern})" for at, (_, pattern) in enumerate(KEYS)))
NUMBER = re.compile(r"\d+")

WORDS = tuple((family, re.compile(pattern)) for family, pattern in _TABLES["names"])
"""Family -> its name as trainers and hubs spell it; signs between letters are written `-`."""
BETWEEN = re.compile(r"[^a-z0-9]+")

STATED = (
    *("modelspec.architecture", "ss_base_model_version", "ss_base_model", "ss_network_module"),
    *("modelspec.implementation", "base_model", "baseModel", "base_model_version", "sd_version"),
)
"""Fields in which trainers state the family."""
NAMED = ("ss_sd_model_name", "base_model_name_or_path", "ss_pretrained_model_name_or_path")
"""Fields that name the very model: a name may say anything, so only where no other speaks."""
EVIDENCE = (
    *("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "ss_v2"),
    *("ss_network_module", "base_model_name_or_path"),
)
"""Fields of a header that a report of its file repeats."""
ANOTHER = "another"  # a base with cross-attention of a width that none of the known families has


def refuse_other_base(
    file: WeightsFile, configuration: Mapping[str, Any], parameters: Mapping[str, Tensor]
) -> None:
    """Raise `FamilyMismatch` if a file's own header states another base than ours."""
    if ours := base_of(parameters):
        refuse_other_statement(file, ours, configuration)


def refuse_other_statement(
    file: WeightsFile, ours: str, configuration: Mapping[str, Any] | None = None
) -> None:
    """Raise `FamilyMismatch` if a file's own header states another base than this one."""
    for family, where in _stated({**_texts(configuration or {}), **file.metadata}):
        if family != ours:
            base = "another model" if ours == ANOTHER else ours
            raise FamilyMismatch(
                f"{file.path.name} says that it is made for {family} ({where}), the base is {base}"
            )


def evidence(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a header claims of its file's base, `key=value`."""
    return tuple(f"{key}={shown(metadata[key])[1:-1]}" for key in EVIDENCE if metadata.get(key))


def base_of(parameters: Mapping[str, Tensor]) -> str:
    """Return the family of a base by its names and shapes; nothing if they do not tell."""
    for name, value in parameters.items():
        if name.startswith("transformer.single_transformer_blocks."):
            return "FLUX"
        if name.startswith("unet.") and name.endswith("attn2.to_k.weight"):
            return TEXT_WIDTHS.get(value.shape[1], ANOTHER)
    return ""


def made_for(file: WeightsFile) -> str:
    """Return the base model that a file's keys and shapes look made for, or nothing."""
    kinds = {NUMBER.sub("0", key): key for key in file.entries}
    found = [place for place in (known_by(kind, _place_of) for kind in kinds) if place is not None]
    if found:
        family = KEYS[min(found)][0]
        return _refined(file, kinds.values()) if family == "Lumina" else family
    for key, entry in file.entries.items():
        shape = entry.shape
        if len(shape) < 2:
            continue
        if CROSS_ATTENTION.fullmatch(key):
            return TEXT_WIDTHS.get(shape[1], "")
        if joint := JOINT_ATTENTION.fullmatch(key):
            return JOINT_WIDTHS.get((joint[1], shape[1]), "")
    return ""


@lru_cache(KEYS_KEPT)
def _place_of(kind: str) -> int | None:
    """Return which of `KEYS` a key is of, its numbers written 0."""
    match = ANY_KEY.search(kind)
    return int(str(match.lastgroup)[1:]) if match else None


def _refined(file: WeightsFile, keys: Iterable[str]) -> str:
    """Tell Z-Image from Lumina, whose names it took over, by its width."""
    widths = {file.entries[key].shape[-1] for key in keys if REFINED.fullmatch(key)}
    return "Z-Image" if Z_IMAGE_WIDTH in widths else "Lumina"


def _stated(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the families that a header states, and where."""
    found = [
        (family, f"{name}={shown(texts[name])[1:-1]}")
        for name in STATED
        if (family := family_in(texts.get(name, "")))
    ]
    if texts.get("ss_v2", "").strip().lower() == "true":
        found.append(("SD 2.x", "ss_v2=True"))
    if found:
        return found
    named = [
        (family, f"{name}={shown(texts[name])[1:-1]}")
        for name in NAMED
        if (family := family_in("/".join(texts.get(name, "").split("/")[-2:])))
    ]
    return named if len({family for family, _ in named}) == 1 else []


def family_in(text: str) -> str:
    """Return the one family that a text names; nothing if it names none, or several."""
    plain = BETWEEN.sub("-", text.lower()).strip("-")
    found = [family for family, pattern in WORDS if pattern.search(plain)]
    return found[0] if len(found) == 1 else ""


def _texts(configuration: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in configuration.items() if isinstance(value, str)}
