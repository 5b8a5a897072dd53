"""What does a plan make of one parameter?

A rule is two named steps: which entries of each delta are kept (`sparsify`), and how the deltas are
combined (`combine`). Both the resident model and the file writer call `merged_parameter`, so that
an image and a merged file of one plan hold the same weights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, Update, against
from diffgraph.merging.combine import elect_signs, linear, slerp
from diffgraph.merging.parameters import RuleName
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.sparsify import drop_and_rescale, drop_by_magnitude, generator_for, trim

Draw = Callable[[], torch.Generator]
"""Gives the random numbers that belong to one expert's update of one parameter."""
Numbers = Mapping[str, float]
Sparsify = Callable[[Tensor, Numbers, Draw], Tensor]
Combine = Callable[["PlannedMerge", str, Tensor, Mapping[str, Update]], Tensor]


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
