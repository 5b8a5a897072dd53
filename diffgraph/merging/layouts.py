"""Under which keys do other tools look for a merged model's tensors?

* `single-file`: one safetensors file with the names of the first Stable Diffusion code, or of
  FLUX's makers: what A1111, ComfyUI, Forge and diffusers' `from_single_file` load.
* `diffusers`: a folder with a file for each component, what `from_pretrained` loads.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.naming_ldm import ldm
from diffgraph.families import flux_layout
from diffgraph.families.layout import Placement, Placements
from diffgraph.merging.base_files import BaseFiles, StoredTensor

Layout = Literal["single-file", "diffusers"]

LDM_AUTOENCODER = "first_stage_model."
RESNET = {"conv_shortcut": "nin_shortcut"}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",  # as diffusers before 0.18 named them
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
INNER = re.compile(
    r"(?P<side>encoder|decoder)\.(?:(?:down|up)_blocks\.(?P<block>\d+)|mid_block)\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<layer>\d+)\.(?P<rest>.+)"
)


@dataclass(frozen=True)
class Slot:
    """A tensor of a merged file, and what goes into it."""

    shape: torch.Size
    merged: Placements = ()  # parameters of ours, and the rows that they fill
    copied: StoredTensor | None = None  # or a tensor of the base, as it is


def single_file(base: BaseFiles) -> dict[str, Slot]:
    """Return key -> what it holds, for a file that holds the model alone.

    Raises:
        PlanError: the base's architecture has no such layout.
    """
    shapes = {name: stored.value.shape for name, stored in base.merged.items()}
    if any(name.startswith(flux_layout.OURS) for name in shapes):
        return {
            key: Slot(_fused_shape(placements, shapes), placements)
            for key, placements in flux_layout.parameters(shapes).items()
        }
    if not any(name.startswith("unet.") for name in shapes):
        raise PlanError(f"{base.folder}: there is no single-file layout for such a model")
    names = ldm(shapes)
    slots = {}
    for name, shape in shapes.items():
        key = next(iter(names(name)), None)
        if key is None:
            raise PlanError(f"{name} has no name in a single-file checkpoint")
        slots[key] = Slot(shape, (Placement(name),))
    for key, stored in base.autoencoder.items():
        path = autoencoder_key(key, _blocks(base.autoencoder))
        slots[path] = Slot(_kernelled(path, stored.value), copied=stored)
    return slots


def left_out(base: BaseFiles, slots: Mapping[str, Slot]) -> frozenset[str]:
    """Return the parameters of ours that a layout has no place for."""
    placed = {place.name for slot in slots.values() for place in slot.merged}
    return frozenset(base.merged) - placed


def diffusers(base: BaseFiles) -> dict[str, dict[str, Slot]]:
    """Return component -> key -> what it holds, with the keys that the base's own files have."""
    found: dict[str, dict[str, Slot]] = {}
    for name, stored in base.merged.items():
        slot = Slot(stored.value.shape, (Placement(name),))
        found.setdefault(stored.component, {})[stored.key] = slot
    return found


def autoencoder_key(key: str, blocks: int) -> str:
    """Return what a single-file checkpoint calls a tensor of the autoencoder.

    Args:
        key: diffusers' name.
        blocks: of the decoder; the first code counts them from the other end.
    """
    path = key.replace("conv_norm_out", "norm_out")
    match = INNER.fullmatch(path)
    if match is None:
        return LDM_AUTOENCODER + path
    side, kind, layer, rest = match["side"], match["kind"], int(match["layer"]), match["rest"]
    if match["block"] is None:
        inner = f"attn_{layer + 1}" if kind == "attentions" else f"block_{layer + 1}"
        return f"{LDM_AUTOENCODER}{side}.mid.{inner}.{_renamed(rest)}"
    block = int(match["block"])
    way = f"down.{block}" if side == "encoder" else f"up.{blocks - 1 - block}"
    if kind == "resnets":
        return f"{LDM_AUTOENCODER}{side}.{way}.block.{layer}.{_renamed(rest)}"
    sampler = "downsample" if kind == "downsamplers" else "upsample"
    return f"{LDM_AUTOENCODER}{side}.{way}.{sampler}.{rest}"


def _renamed(rest: str) -> str:
    for ours, theirs in (ATTENTION | RESNET).items():
        if rest.startswith(f"{ours}."):
            return theirs + rest.removeprefix(ours)
    return rest


def _blocks(autoencoder: Mapping[str, object]) -> int:
    numbers = [
        int(match["block"])
        for key in autoencoder
        if (match := INNER.fullmatch(key)) and match["block"] and match["side"] == "decoder"
    ]
    return max(numbers, default=-1) + 1


def _kernelled(key: str, value: Tensor) -> torch.Size:
    """Return a shape as the first code has it: its attention is made of 1x1 convolutions."""
    is_projection = ".attn_" in key and key.endswith(".weight") and value.ndim == 2
    return torch.Size((*value.shape, 1, 1)) if is_projection else value.shape


def _fused_shape(placements: Placements, shapes: Mapping[str, Sequence[int]]) -> torch.Size:
    """Return the shape of a tensor that holds these parameters in these rows."""
    first = shapes[placements[0].name]
    ends = [stop for place in placements for _, stop in place.rows]
    return torch.Size((max(ends), *first[1:])) if ends else torch.Size(first)
