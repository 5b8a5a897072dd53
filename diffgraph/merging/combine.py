"""How do several updates of one parameter become its merged value?

The second of a rule's two steps. Everything is summed in float32, one update at a time: however
many experts there are, a merge holds one of their updates whole.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from diffgraph.experts.updates import Update, against

SMALLEST_ANGLE = 1e-6
"""Radians; nearer to a straight line the spherical path is the straight one, to the last bit."""


def linear(
    base: Tensor, terms: Iterable[tuple[float, Update]], start: Tensor | None = None
) -> Tensor:
    """Return `base + sum of coefficient * update` in float32, added in the order given.

    Task arithmetic, https://arxiv.org/abs/2212.04089; with coefficients that sum to one over whole
    models a model soup, https://arxiv.org/abs/2203.05482. `start` stands for the base in the sum.
    """
    start = base if start is None else start
    merged = start.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for value, update in terms:
        against(update, base).add_to(merged, value)
    return merged


def elect_signs(base: Tensor, weighted: Iterable[Callable[[], Tensor]]) -> Tensor:
    """Return base + at each entry the mean of the updates that have the elected sign.

    The sign of an entry is that of the updates' sum there; where that is zero nothing is added.
    TIES steps 2 and 3, https://arxiv.org/abs/2306.01708.

    Args:
        base: the untouched weight.
        weighted: each gives one update, already multiplied by its coefficient, in float32.
    """
    plus = torch.zeros_like(base, dtype=torch.float32)
    minus = torch.zeros_like(plus)
    votes_plus = torch.zeros_like(plus, dtype=torch.int16)
    votes_minus = torch.zeros_like(votes_plus)
    for give in weighted:
        update = give()
        plus.add_(update.clamp(min=0))
        votes_plus.add_(update > 0)
        minus.add_(update.clamp_(max=0))
        votes_minus.add_(update < 0)
    total = plus + minus
    plus.div_(votes_plus.clamp_(min=1))
    minus.div_(votes_minus.clamp_(min=1))
    # the total is 0 where neither has it, and NaN where an update is: that must not be lost
    chosen = torch.where(total > 0, plus, torch.where(total < 0, minus, total))
    return chosen.add_(base)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return the weight a share, 0 to 1, of the way from one to another, along the arc.

    Shoemake's formula, https://doi.org/10.1145/325334.325242, on a parameter seen as one vector.
    Weights that point the same way, opposite ways, or nowhere are joined by a straight line.
    """
    angle = angle_between(first, second)
    if min(angle, math.pi - angle) < SMALLEST_ANGLE:
        return torch.lerp(first, second, share)
    near, far = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
    return (near * first).add_(second, alpha=far)


def angle_between(first: Tensor, second: Tensor) -> float:
    """Return the angle between two tensors seen as vectors, in radians; 0 if one of them is zero.

    Of the half-difference and half-sum: a cosine near one would say nothing of a small angle.
    """
    lengths = [float(torch.linalg.vector_norm(value)) for value in (first, second)]
    if min(lengths) == 0:
        return 0.0
    ahead, aside = first / lengths[0], second / lengths[1]
    apart = float(torch.linalg.vector_norm(ahead - aside))
    together = float(torch.linalg.vector_norm(ahead.add_(aside)))
    return 2 * math.atan2(apart, together)
