"""Checkpoint: a whole model, of which the difference to the base is kept.

In diffusers' names (`unet.…`, `text_encoder.…`) or those of single-file checkpoints. The
autoencoder is never merged, an exponential moving average is a second copy, and the schedule's
constants are not weights.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.delta import CheckpointUpdate, Update
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
SKIPPED_SUFFIXES = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
SCHEDULE = ("alphas_cumprod", "betas", "sqrt_", "log_one_minus_", "posterior_", "global_step")


def is_skipped(key: str) -> bool:
    """Whether a key is known to carry nothing for a merge."""
    return key.startswith(SKIPPED_PREFIXES + SCHEDULE) or key.endswith(SKIPPED_SUFFIXES)


def read_updates(
    file: WeightsFile, keys: Mapping[str, str], parameters: Mapping[str, Tensor]
) -> Iterator[tuple[str, Update]]:
    """Yield each parameter that differs from the base's, with its update.

    Args:
        file: the open file.
        keys: key of the file -> name of the parameter.
        parameters: the base's weights.
    """
    for key, name in keys.items():
        base = parameters[name]
        found = file.entries[key].shape
        if _squeezed(found) != _squeezed(base.shape):
            raise FamilyMismatch(
                f"{file.path.name}: {shown(key)} is {tuple(found)}, "
                f"the base model's {name} is {tuple(base.shape)}"
            )
        value = file.tensor(key)
        if not torch.equal(value.reshape(base.shape).float(), base.float().cpu()):
            yield name, CheckpointUpdate(value.to(base.device), base)


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape without the kernel of a 1x1 convolution: some tools write it as a matrix."""
    if len(shape) == 4 and shape[2:] == (1, 1):
        return tuple(shape[:2])
    return tuple(shape)
