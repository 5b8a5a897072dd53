"""What does the base model draw alone? `Direct` in Table 1 of https://arxiv.org/abs/2603.20470."""

from typing import TYPE_CHECKING

from diffgraph.merging.plan import MergePlan
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


class Base:
    """No experts at all."""

    name = "base"

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan without experts, whatever was chosen."""
        return MergePlan(family=snapshot.family)
