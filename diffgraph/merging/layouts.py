"""Under which keys do other tools look for a merged model's tensors?

* `single-file`: one safetensors file with the names of the first Stable Diffusion code, or of
  FLUX's makers: what A1111, ComfyUI, Forge and diffusers' `from_single_file` load.
* `diffusers`: a folder with a file for each component, what `from_pretrained` loads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.naming_ldm import ldm
from diffgraph.families import flux_layout
from diffgraph.families.layout import Placement, Placements
from diffgraph.merging.autoencoder_names import autoencoder_key, decoder_blocks
from diffgraph.merging.base_files import BaseFiles, StoredTensor


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of a merged file, and what goes into it."""

    shape: torch.Size
    merged: Placements = ()  # parameters of ours, and the rows that they fill
    copied: StoredTensor | None = None  # or a tensor of the base, as it is


def single_file(base: BaseFiles) -> dict[str, OutputTensor]:
    """Return key -> what it holds, for a file that holds the model alone.

    Raises:
        PlanError: the base's architecture has no such layout.
    """
    shapes = {name: stored.value.shape for name, stored in base.merged.items()}
    if any(name.startswith(flux_layout.OURS) for name in shapes):
        return {
            key: OutputTensor(_fused_shape(placements, shapes), placements)
            for key, placements in flux_layout.parameters(shapes).items()
        }
    if not any(name.startswith("unet.") for name in shapes):
        raise PlanError(f"{base.folder}: there is no single-file layout for such a model")
    names = ldm(shapes)
    outputs = {}
    for name, shape in shapes.items():
        key = next(iter(names(name)), None)
        if key is None:
            raise PlanError(f"{name} has no name in a single-file checkpoint")
        outputs[key] = OutputTensor(shape, (Placement(name),))
    blocks = decoder_blocks(base.autoencoder)
    for key, stored in base.autoencoder.items():
        path = autoencoder_key(key, blocks)
        outputs[path] = OutputTensor(_kernelled(path, stored.value), copied=stored)
    return outputs


def left_out(base: BaseFiles, outputs: Mapping[str, OutputTensor]) -> frozenset[str]:
    """Return the parameters of ours that a layout has no place for."""
    placed = {place.name for output in outputs.values() for place in output.merged}
    return frozenset(base.merged) - placed


def diffusers(base: BaseFiles) -> dict[str, dict[str, OutputTensor]]:
    """Return component -> key -> what it holds, with the keys that the base's own files have."""
    found: dict[str, dict[str, OutputTensor]] = {}
    for name, stored in base.merged.items():
        output = OutputTensor(stored.value.shape, (Placement(name),))
        found.setdefault(stored.component, {})[stored.key] = output
    return found


def _kernelled(key: str, value: Tensor) -> torch.Size:
    """Return a shape as the first code has it: its attention is made of 1x1 convolutions."""
    is_projection = ".attn_" in key and key.endswith(".weight") and value.ndim == 2
    return torch.Size((*value.shape, 1, 1)) if is_projection else value.shape


def _fused_shape(placements: Placements, shapes: Mapping[str, Sequence[int]]) -> torch.Size:
    """Return the shape of a tensor that holds these parameters in these rows."""
    first = shapes[placements[0].name]
    ends = [stop for place in placements for _, stop in place.rows]
    return torch.Size((max(ends), *first[1:])) if ends else torch.Size(first)
