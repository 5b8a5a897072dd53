"""Checkpoint: a whole model, of which the difference to the base is kept.

In diffusers' names (`unet.…`, `text_encoder.…`) or those of single-file checkpoints. The
autoencoder is never merged, an exponential moving average is a second copy, and the schedule's
constants are not weights.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.naming_index import Placements
from diffgraph.experts.updates import CheckpointUpdate, Update
from diffgraph.experts.weights_file import WeightsFile, shown

PREFIXES = (
    "unet.",
    "text_encoder.",
    "vae.",
    "model.diffusion_model.",
    "cond_stage_model.",
    "conditioner.",
    "first_stage_model.",
    "transformer.",
    "double_blocks.",
    "model.double_blocks.",
)
"""What the keys of whole models begin with, ours or not."""

SKIPPED_PREFIXES = ("vae.", "first_stage_model.", "model_ema.", "ema.", "safety_checker.")
SKIPPED_SUFFIXES = (
    "position_ids",
    "logit_scale",
    "text_projection",
    "text_projection.weight",
    "encoder.embed_tokens.weight",  # of T5: `shared.weight` once more
)
SCHEDULE = ("alphas_cumprod", "betas", "sqrt_", "log_one_minus_", "posterior_", "global_step")


def is_skipped(key: str) -> bool:
    """Whether a key is known to carry nothing for a merge."""
    return key.startswith(SKIPPED_PREFIXES + SCHEDULE) or key.endswith(SKIPPED_SUFFIXES)


def updates_of(
    file: WeightsFile, key: str, placements: Placements, parameters: Mapping[str, Tensor]
) -> Iterator[tuple[str, Update]]:
    """Yield the parameters that a key of a whole model holds, each with its update."""
    found = file.entries[key].shape
    value = file.tensor(key)
    height = max((stop for where in placements for _, stop in where.rows), default=None)
    for where in placements:
        base = parameters[where.name]
        needed = base.shape if height is None else torch.Size((height, *base.shape[1:]))
        if squeezed(found) != squeezed(needed):
            raise FamilyMismatch(
                f"{file.path.name}: {shown(key)} is {tuple(found)}, "
                f"the base model's {where.name} is {tuple(needed)}"
            )
        yield where.name, CheckpointUpdate(where.take(value).to(base.device), base)


def squeezed(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape without the kernel of a 1x1 convolution: some tools write it as a matrix."""
    if len(shape) == 4 and shape[2:] == (1, 1):
        return tuple(shape[:2])
    return tuple(shape)
