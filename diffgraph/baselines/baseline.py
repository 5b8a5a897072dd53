"""What is a baseline? A way from a selection to a merge plan that learns nothing."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from diffgraph.experts.expert import Kind
from diffgraph.merging.plan import MergePlan, Normalisation, PlannedExpert
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot

Coefficient = Callable[[Kind, float, int], float]
"""(kind, recommended strength, experts of that kind in the selection) → coefficient."""


class Baseline(Protocol):
    """A method that a planner is compared with."""

    name: str

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the method's plan for the chosen experts; none chosen: the base's.

        Raises:
            SnapshotError: an expert is not a mergeable expert of the snapshot.
        """
        ...


def planned(
    selection: Chosen,
    snapshot: "GraphSnapshot",
    coefficient: Coefficient,
    normalisation: Normalisation,
    **rule: Any,
) -> MergePlan:
    """Return the plan that gives each chosen expert the coefficient of its kind and strength.

    Args:
        selection: the chosen experts.
        snapshot: the graph that they were chosen from.
        coefficient: what each is multiplied by, before normalisation.
        normalisation: of the plan.
        rule: `rule` and its `parameters`, if it is another than the sum.
    """
    rows = snapshot.index(selection.refs)
    kinds = [snapshot.kinds[row] for row in rows]
    experts = tuple(
        PlannedExpert(
            ref=snapshot.refs[row],
            kind=kind,
            coefficient=coefficient(kind, float(snapshot.strengths[row]), kinds.count(kind)),
            sha256=snapshot.sha256s[row],
        )
        for row, kind in zip(rows, kinds, strict=True)
    )
    return MergePlan(family=snapshot.family, experts=experts, normalisation=normalisation, **rule)
