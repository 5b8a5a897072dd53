"""What if every chosen expert counted the same? Table 5, w/o MP, of https://arxiv.org/abs/2603.20470."""

from typing import TYPE_CHECKING

from diffgraph.baselines.baseline import planned
from diffgraph.merging.plan import MergePlan
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


class Uniform:
    """Equal coefficients under the paper's softmax: each expert gets 1/n of its kind."""

    name = "uniform"

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan with equal coefficients."""
        return planned(selection, snapshot, lambda kind, strength, count: 1.0, "softmax")
