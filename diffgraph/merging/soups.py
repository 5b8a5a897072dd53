"""Which experts are better averaged than alone?

Model soups, https://arxiv.org/abs/2203.05482: the uniform soup averages all; the greedy one tries
the experts in the order of their own scores and keeps whoever improves the average. A soup is a
linear plan whose coefficients are shares.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from diffgraph.errors import PlanError
from diffgraph.merging.plan import MergePlan, PlannedExpert

Reading = Literal["within_kind", "members"]
"""What an average of whole models and of LoRAs is. `within_kind`: a mean model plus a mean delta,
as in DiffGraph's merge. `members`: each expert is a model of its own, base and all; the more there
are, the less a LoRA counts."""

Score = Callable[[MergePlan], float]
"""How good a plan's images are on prompts that the comparison does not use; higher is better."""


@dataclass(frozen=True)
class GreedySoup:
    """The soup, its score, and what was tried: (the expert added, the score, whether it stayed)."""

    plan: MergePlan
    score: float
    tried: tuple[tuple[str, float, bool], ...]


def uniform_soup(
    family: str, experts: Iterable[PlannedExpert], reading: Reading = "within_kind"
) -> MergePlan:
    """Return the plan that averages experts, whatever their own coefficients."""
    members = sorted(experts, key=lambda expert: expert.ref)
    counts = {
        expert.kind: sum(other.kind == expert.kind for other in members) for expert in members
    }
    shares = (
        1 / (counts[expert.kind] if reading == "within_kind" else len(members))
        for expert in members
    )
    averaged = (
        expert.model_copy(update={"coefficient": share})
        for expert, share in zip(members, shares, strict=True)
    )
    return MergePlan(family=family, experts=tuple(averaged))


def greedy_soup(
    family: str,
    experts: Sequence[PlannedExpert],
    score: Score,
    reading: Reading = "within_kind",
) -> GreedySoup:
    """Return the average that is built expert by expert, the best first, while it gets better.

    No average is kept that is not strictly better. Equal experts are tried in the order of their
    references. It takes about two scores an expert.

    Raises:
        PlanError: there are no experts.
    """
    if not experts:
        raise PlanError("a greedy soup needs experts to choose from")
    alone = {expert.ref: score(uniform_soup(family, [expert], reading)) for expert in experts}
    first, *others = sorted(experts, key=lambda expert: (-alone[expert.ref], expert.ref))
    members, best = [first], alone[first.ref]
    tried = [(first.ref, best, True)]
    for expert in others:
        found = score(uniform_soup(family, [*members, expert], reading))
        tried.append((expert.ref, found, found > best))
        if found > best:
            members, best = [*members, expert], found
    return GreedySoup(uniform_soup(family, members, reading), best, tuple(tried))
