"""How does a fine-tune stay as good in a file of 8 bits? It learns with the weights that it ships.

A float8 weight (e4m3) keeps three bits behind the leading one: rounded afterwards, a fine-tune of
emoji64 gets an error of a quarter of all that it learnt. So every weight is rounded in the forward
pass as its file will round it, and gradients pass as if it were not (the straight-through
estimator, https://arxiv.org/abs/1308.3432).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ROUNDED = torch.float8_e4m3fn


class _AsShipped(nn.Module):
    """A weight as it comes back from its file, merged at the recommended strength."""

    base: Tensor

    def __init__(self, base: Tensor, strength: float) -> None:
        super().__init__()
        self.register_buffer("base", base.detach().clone())
        self.strength = strength

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight to compute with, of the same shape."""
        with torch.no_grad():
            stretched = self.base + (weight - self.base) / self.strength
            shipped = self.base + self.strength * (
                stretched.to(ROUNDED).to(weight.dtype) - self.base
            )
            error = shipped - weight
        return weight + error


def learn_as_shipped(student: nn.Module, strength: float) -> None:
    """Have a model compute with its matrices and kernels as a float8 file would bring them back.

    Args:
        student: as the base is; it learns from here.
        strength: what its update is divided by in the file, and multiplied by in a merge.
    """
    for module, name in _rounded(student):
        weight: Any = getattr(module, name)
        parametrize.register_parametrization(module, name, _AsShipped(weight, strength))


def keep_what_ships(student: nn.Module) -> None:
    """Make the rounded weights the model's own."""
    for module in list(student.modules()):
        rounded = getattr(module, "parametrizations", None)
        if isinstance(rounded, nn.ModuleDict):
            for name in list(rounded):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _rounded(student: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parameters that a float8 file rounds: vectors, which are few, stay float16."""
    return [
        (module, name)
        for module in student.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    ]
