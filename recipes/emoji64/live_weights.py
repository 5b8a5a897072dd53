"""How are the same weights written thousands of times over, always from the untouched base?"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Updates = Mapping[str, Tensor]
"""Parameter name -> dense update, on the model's device."""


class LiveWeights:
    """Weights that a model computes with, and a copy of what they were at first."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        """Remember what the weights are now.

        Args:
            live: the weights by name; they are written in place.
        """
        self.live = dict(live)
        self.base = {name: value.detach().clone() for name, value in self.live.items()}
        self.dirty: set[str] = set()

    @torch.no_grad()
    def write(self, terms: Sequence[tuple[float, Updates]]) -> None:
        """Set the weights to the base plus these updates times their coefficients."""
        if self.dirty:
            names = sorted(self.dirty)
            torch._foreach_copy_(
                [self.live[name] for name in names], [self.base[name] for name in names]
            )
        self.dirty = {name for _, own in terms for name in own}
        for coefficient, own in terms:
            torch._foreach_add_(
                [self.live[name] for name in own],
                [value.detach() for value in own.values()],
                alpha=coefficient,
            )
