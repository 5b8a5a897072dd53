"""What does a plan make of one parameter?

A rule is two steps: which entries of each delta are kept, and how the deltas are summed in
float32 one at a time. The resident model and the file writer share them, so that an image and a
merged file of one plan hold the same weights. What is drawn at random comes from a generator on the
CPU: a plan means the same on every device.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, Update, against
from diffgraph.merging.parameters import RuleName
from diffgraph.merging.plan import MergePlan

SMALLEST_ANGLE = 1e-6
"""Radians; nearer to a straight line the spherical path is the straight one, to the last bit."""

Draw = Callable[[], torch.Generator]
"""Gives the random numbers that belong to one expert's update of one parameter."""
Numbers = Mapping[str, float]
Sparsify = Callable[[Tensor, Numbers, Draw], Tensor]
Combine = Callable[["PlannedMerge", str, Tensor, Mapping[str, Update]], Tensor]


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


@dataclass(frozen=True)
class Rule:
    """Two steps and where they come from; no `sparsify` keeps every delta as it is."""

    combine: Combine
    source: str
    sparsify: Sparsify | None = None


class PlannedMerge:
    """A plan made ready to give one parameter after another."""

    def __init__(self, plan: MergePlan):
        self.plan_id = plan.id
        self.rule = RULES[plan.rule]
        self.is_linear = plan.is_linear
        self.numbers = {n: float(v) for n, v in plan.parameters.items() if not isinstance(v, str)}
        self.coefficients = plan.coefficients()
        self.kinds = {expert.ref: expert.kind for expert in plan.experts}

    @torch.no_grad()
    def parameter(self, name: str, base: Tensor, updates: Mapping[str, Update]) -> Tensor:
        """Return one parameter's merged value in float32, on the base's device."""
        return self.rule.combine(self, name, base, updates)

    def used(self, updates: Mapping[str, Update]) -> list[str]:
        """Return the experts with a part in a parameter, in the one order that sums are made in."""
        return [ref for ref in sorted(updates) if self.coefficients.get(ref, 0.0) != 0]

    def sparse(self, name: str, ref: str, base: Tensor, update: Update) -> Update:
        """Return an expert's update as the rule's first step leaves it."""
        if self.rule.sparsify is None:
            return update
        dense = against(update, base).dense().to(base.device)
        kept = self.rule.sparsify(
            dense, self.numbers, lambda: generator_for(self.plan_id, ref, name)
        )
        return DenseUpdate(kept)


def merged_parameter(
    name: str, base: Tensor, updates: Mapping[str, Update], plan: MergePlan
) -> Tensor:
    """Return what a plan makes of one parameter: `PlannedMerge` for a single one."""
    return PlannedMerge(plan).parameter(name, base, updates)


def _linear(merge: PlannedMerge, name: str, base: Tensor, updates: Mapping[str, Update]) -> Tensor:
    def terms() -> Iterator[tuple[float, Update]]:
        for ref in merge.used(updates):
            yield merge.coefficients[ref], merge.sparse(name, ref, base, updates[ref])

    return linear(base, terms())


def _signs(merge: PlannedMerge, name: str, base: Tensor, updates: Mapping[str, Update]) -> Tensor:
    def weighted(ref: str) -> Callable[[], Tensor]:
        def give() -> Tensor:
            kept = against(merge.sparse(name, ref, base, updates[ref]), base).dense()
            return merge.coefficients[ref] * kept.to(base.device)

        return give

    return elect_signs(base, (weighted(ref) for ref in merge.used(updates)))


def _slerp(merge: PlannedMerge, name: str, base: Tensor, updates: Mapping[str, Update]) -> Tensor:
    """Return the weight between the two checkpoints', with the PEFT experts added to it."""
    ends = sorted(ref for ref, kind in merge.kinds.items() if kind == "checkpoint")
    shares = [merge.coefficients[ref] for ref in ends]
    if min(shares) < 0 or sum(shares) <= 0:
        raise PlanError(
            f"slerp divides the way between {ends[0]} and {ends[1]} by their coefficients, "
            f"which must be 0 or more and not both 0: {shares[0]:g}, {shares[1]:g}"
        )
    added = {ref: item for ref, item in updates.items() if ref not in ends}
    start = base
    if any(ref in updates for ref in ends):
        first, second = (_whole(base, updates.get(ref)) for ref in ends)
        start = slerp(first, second, shares[1] / sum(shares))
    return linear(base, [(merge.coefficients[ref], added[ref]) for ref in merge.used(added)], start)


def _whole(base: Tensor, update: Update | None) -> Tensor:
    """Return a checkpoint's own weight in float32: the base's where it does not differ."""
    if update is None:
        return base.float()
    if isinstance(update, CheckpointUpdate):
        return update.value.float().reshape(base.shape).to(base.device)
    return base.float() + against(update, base).dense().to(base.device)


def _step_by_step(
    merge: PlannedMerge, name: str, base: Tensor, updates: Mapping[str, Update]
) -> Tensor:
    raise PlanError(
        "k_lora chooses anew at every denoising step: it can draw images, "
        "but there is no one model that it makes"
    )


def _drop(update: Tensor, numbers: Numbers, draw: Draw) -> Tensor:
    return drop_and_rescale(update, numbers["density"], draw())


RULES: Mapping[RuleName, Rule] = {
    "linear": Rule(_linear, "https://arxiv.org/abs/2603.20470"),
    "task_arithmetic": Rule(_linear, "https://arxiv.org/abs/2212.04089"),
    "ties": Rule(
        _signs,
        "https://arxiv.org/abs/2306.01708",
        lambda update, numbers, _: trim(update, **numbers),
    ),
    "dare": Rule(_linear, "https://arxiv.org/abs/2311.03099", _drop),
    "dare_ties": Rule(_signs, "https://arxiv.org/abs/2311.03099", _drop),
    "della": Rule(
        _signs,
        "https://arxiv.org/abs/2406.11617",
        lambda update, numbers, draw: drop_by_magnitude(update, generator=draw(), **numbers),
    ),
    "slerp": Rule(_slerp, "https://doi.org/10.1145/325334.325242"),
    "k_lora": Rule(_step_by_step, "https://arxiv.org/abs/2502.18461"),
}
"""What the rules of `diffgraph.merging.parameters` do."""
