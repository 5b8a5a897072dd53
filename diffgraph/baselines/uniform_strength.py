"""What if every chosen expert were used as its page says? Most people stack LoRAs so."""

from typing import TYPE_CHECKING

from diffgraph.baselines.baseline import planned
from diffgraph.merging.plan import MergePlan
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


class UniformStrength:
    """PEFT experts at their recommended strength each; checkpoints in equal shares of one model."""

    name = "uniform_strength"

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan with the recommended strengths."""
        return planned(
            selection,
            snapshot,
            lambda kind, strength, count: 1.0 / count if kind == "checkpoint" else strength,
            "none",
        )
