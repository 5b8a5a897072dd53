"""How well does one list of numbers follow another?"""

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Return ranks along the last axis, equal values sharing their mean rank: float64."""
    values = values.double()
    below = (values.unsqueeze(-1) > values.unsqueeze(-2)).sum(-1)
    equal = (values.unsqueeze(-1) == values.unsqueeze(-2)).sum(-1)
    return below + (equal + 1) / 2


def correlation(left: Tensor, right: Tensor) -> Tensor:
    """Return Pearson's correlation along the last axis; 0 where one side does not vary."""
    left, right = left.double(), right.double()
    left, right = left - left.mean(-1, keepdim=True), right - right.mean(-1, keepdim=True)
    size = (left.square().sum(-1) * right.square().sum(-1)).sqrt()
    return torch.where(
        size > 0, (left * right).sum(-1) / size.clamp(min=1e-300), torch.zeros_like(size)
    )


def rank_correlation(left: Tensor, right: Tensor) -> Tensor:
    """Return Spearman's correlation along the last axis, which may hold a few thousand values."""
    return correlation(ranks(left), ranks(right))


def bootstrap_interval(
    differences: Tensor, generator: torch.Generator, draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences (n,), by resampling them."""
    values = differences.double().cpu()
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values[picks].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
