"""Which entries of a delta are kept before it is combined with others?

The first of a rule's two steps. Each function takes one parameter's update, whole and in float32,
and returns it with the dropped entries at zero. What is drawn at random comes from a generator on
the CPU, so that a plan means the same on every device.
"""

import hashlib

import torch
from torch import Tensor


def generator_for(plan_id: str, ref: str, name: str) -> torch.Generator:
    """Return where a plan's random numbers for one expert's update of one parameter come from."""
    digest = hashlib.sha256(f"{plan_id}\n{ref}\n{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def kept_count(density: float, entries: int) -> int:
    """Return how many of so many entries a share of them is: at least one, if there is any."""
    return min(entries, max(1, round(density * entries)))


def trim(update: Tensor, density: float) -> Tensor:
    """Keep the share `density` of the entries that is largest in magnitude, as it is.

    TIES step 1, https://arxiv.org/abs/2306.01708, within one parameter. Among equals the first are
    kept: half-precision deltas are full of equals, and the count must not depend on them.
    """
    kept = kept_count(density, update.numel())
    if kept == update.numel():
        return update
    sizes = update.abs().flatten()
    least = sizes.kthvalue(update.numel() - kept + 1).values
    keep = ~(sizes <= least)  # a NaN is kept: what is wrong with a file must not be lost
    equal = (sizes == least).nonzero().flatten()
    keep[equal[: kept - int(keep.sum())]] = True
    return torch.where(keep.reshape(update.shape), update, 0.0)


def drop_and_rescale(update: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep each entry with probability `density`, scaled up so that the mean stays.

    DARE, https://arxiv.org/abs/2311.03099; its drop rate is 1 - density.
    """
    keep = torch.rand(update.shape, generator=generator) < density
    return torch.where(keep.to(update.device), update / density, 0.0)


def drop_by_magnitude(
    update: Tensor, density: float, spread: float, generator: torch.Generator
) -> Tensor:
    """Keep entries with probabilities that rise with their rank in their row, each scaled up.

    From `density - spread / 2` for a row's smallest entry to `density + spread / 2` for its
    largest. MagPrune of DELLA, https://arxiv.org/abs/2406.11617.
    """
    rows = update.reshape(1, -1) if update.ndim < 2 else update.flatten(1)
    # stable: among equals the first counts as smaller, on every device
    order = rows.abs().sort(dim=1, stable=True).indices
    steps = torch.arange(rows.shape[1], dtype=torch.float32, device=update.device)
    ranks = torch.empty_like(rows).scatter_(1, order, steps.expand_as(rows))
    share = ranks / max(1, rows.shape[1] - 1)
    probability = (density - spread / 2 + spread * share).reshape(update.shape)
    keep = torch.rand(update.shape, generator=generator).to(update.device) < probability
    return torch.where(keep, update / probability, 0.0)
