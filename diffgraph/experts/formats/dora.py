"""DoRA: any adapter whose result is brought to a learned magnitude, row by row.

https://arxiv.org/abs/2402.09353. PEFT and newer LyCORIS keep a magnitude for each output; older
LyCORIS one for each input, told by its shape (1, in).
"""

from torch import Tensor

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.formats.adapter import ModuleTensors
from diffgraph.experts.updates import RenormalisedUpdate, Update

SUFFIXES = {
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


def renormalise(update: Update, parts: ModuleTensors, weight: Tensor) -> Update:
    """Return the update as it is, or with the magnitude that the file has for its module."""
    if "magnitude" in parts:  # PEFT's: always one an output, whatever its shape
        outputs = 1 if "embedding_up" in parts else 0  # an embedding's are its columns
        return _renormalised(update, parts, parts["magnitude"], weight, dimension=outputs)
    if "dora_scale" not in parts:
        return update
    scale = parts["dora_scale"]
    by_row = scale.ndim < 2 or scale.shape[0] == weight.shape[0]
    return _renormalised(update, parts, scale, weight, dimension=0 if by_row else 1)


def _renormalised(
    update: Update, parts: ModuleTensors, magnitude: Tensor, weight: Tensor, dimension: int
) -> RenormalisedUpdate:
    if magnitude.numel() != weight.shape[dimension]:
        raise FamilyMismatch(
            f"{parts.where} has magnitudes of shape {tuple(magnitude.shape)} "
            f"for a weight of shape {tuple(weight.shape)}"
        )
    return RenormalisedUpdate(update, magnitude.to(weight.device), dimension, weight)
