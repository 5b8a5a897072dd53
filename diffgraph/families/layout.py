"""Which of our parameters does a tensor of another layout hold?

The same base is written down in several ways: some keep the queries, keys and values of an
attention in one tensor, some in three. Ours are those of diffusers, always the finest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Rows = tuple[tuple[int, int], ...]
"""[start, stop) of a taller tensor, in the order of the shorter one's own rows."""


def cut(value: Tensor, rows: Rows) -> Tensor:
    """Return some rows of a tensor: a view unless they lie scattered."""
    parts = [value[start:stop] for start, stop in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Placement:
    """A parameter or module of ours, and the rows of another layout's tensor that make it up.

    A tensor with several placements holds several of ours. Rows are along dimension 0:
    a weight's outputs, so they select from a LoRA's up factor, a bias or a magnitude as well.
    """

    name: str
    rows: Rows = ()  # of theirs; none: all

    def take(self, value: Tensor) -> Tensor:
        return cut(value, self.rows) if self.rows else value

    def put(self, whole: Tensor, ours: Tensor) -> None:
        """Write our rows into the other layout's tensor: the inverse of `take`."""
        if not self.rows:
            whole.copy_(ours)
            return
        done = 0
        for start, stop in self.rows:
            whole[start:stop].copy_(ours[done : done + stop - start])
            done += stop - start


Placements = tuple[Placement, ...]
