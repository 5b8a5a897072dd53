"""What if coefficients were drawn by lot? Table 5, random merging, of https://arxiv.org/abs/2603.20470."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from diffgraph.baselines.baseline import planned
from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.planner.planner import Chosen

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot


class Random:
    """Coefficients drawn evenly from [0, 1]; the same for the same prompt, experts and seed."""

    name = "random"

    def __init__(self, seed: int = 0, normalisation: Normalisation = "strength") -> None:
        self.seed = seed
        self.normalisation = normalisation

    def plan(self, selection: Chosen, snapshot: "GraphSnapshot") -> MergePlan:
        """Return a plan drawn by lot."""
        facts = "\n".join([str(self.seed), selection.prompt, *selection.refs])
        lot = int.from_bytes(hashlib.sha256(facts.encode()).digest()[:8], "big")
        generator = np.random.default_rng(lot)
        return planned(
            selection,
            snapshot,
            lambda kind, strength, count: float(generator.uniform()),
            self.normalisation,
        )
