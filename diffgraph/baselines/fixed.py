"""What do coefficients do that look at no score? Tables 1 and 5 of https://arxiv.org/abs/2603.20470.

`base` is `Direct`, `uniform` is `w/o MP`, equal shares under the paper's softmax, and `random` is
random merging. `uniform_strength` is how most people stack LoRAs: each as strong as its page says,
and checkpoints in equal shares of one model.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffgraph.baselines.baseline import Coefficient, planned
from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


class Base:
    """No experts at all."""

    name = "base"

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan without experts, whatever was chosen."""
        return MergePlan(family=snapshot.family)


@dataclass
class Fixed:
    """A coefficient by kind, page's strength and number of experts."""

    name: str
    coefficient: Coefficient
    normalisation: Normalisation

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return the plan with these coefficients."""
        return planned(selection, snapshot, self.coefficient, self.normalisation)


UNIFORM = Fixed("uniform", lambda kind, strength, count: 1.0, "softmax")
UNIFORM_STRENGTH = Fixed(
    "uniform_strength",
    lambda kind, strength, count: 1.0 / count if kind == "checkpoint" else strength,
    "none",
)


class Random:
    """Coefficients drawn evenly from [0, 1]; the same for the same prompt, experts and seed."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return a plan drawn by lot."""
        facts = "\n".join([str(self.seed), selection.prompt, *selection.refs])
        lot = int.from_bytes(hashlib.sha256(facts.encode()).digest()[:8], "big")
        draw = np.random.default_rng(lot).uniform
        return planned(selection, snapshot, lambda kind, strength, count: float(draw()), "strength")
