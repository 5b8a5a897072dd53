"""What could one expert do alone? As DiffAgent picks one, https://arxiv.org/abs/2404.01243.

`plan` takes the chosen expert that calibration likes best. `candidates` gives every expert's
plan, so that the best of them, prompt by prompt, can stand for a choice that nobody can make
beforehand.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffgraph.baselines.baseline import planned
from diffgraph.merging.plan import MergePlan
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


@dataclass(frozen=True)
class _One:
    """A selection of one expert."""

    prompt: str
    refs: tuple[str, ...]


class Single:
    """One of the chosen experts alone, a PEFT expert at its recommended strength."""

    name = "single"

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan of the expert with the highest mean gain on the reference prompts.

        As long as none of them is calibrated, of the first one.
        """
        if not selection.refs:
            return MergePlan(family=snapshot.family)
        measured = [ref for ref in selection.refs if ref in set(snapshot.calibrated)]
        best = selection.refs[0]
        if measured:
            best = measured[int(snapshot.edge_gains(measured).mean(axis=(1, 2)).argmax())]
        return _alone(selection.prompt, best, snapshot)

    def candidates(self, selection: Chosen, snapshot: "GraphSnapshot") -> list[MergePlan]:
        """Return the plan of each chosen expert alone; none chosen: the base's."""
        if not selection.refs:
            return [MergePlan(family=snapshot.family)]
        return [_alone(selection.prompt, ref, snapshot) for ref in selection.refs]


def _alone(prompt: str, ref: str, snapshot: "GraphSnapshot") -> MergePlan:
    return planned(
        _One(prompt, (ref,)),
        snapshot,
        lambda kind, strength, count: 1.0 if kind == "checkpoint" else strength,
        "none",
    )
