"""What would others have done with the same selection? One file a method.

Every method gives a merge plan, as DiffGraph itself does, and one path turns plans into images:
methods differ in the plan and in nothing else. A new one is a file here and a line in
`BASELINES`, or comes with a package.
"""

from typing import Any

from diffgraph.baselines.base import Base
from diffgraph.baselines.baseline import Baseline
from diffgraph.baselines.random import Random
from diffgraph.baselines.single import Single
from diffgraph.baselines.uniform import Uniform
from diffgraph.baselines.uniform_strength import UniformStrength
from diffgraph.extensions import Extensible

__all__ = [
    "BASELINES", "Base", "Baseline", "Random", "Single", "Uniform", "UniformStrength",
]  # fmt: skip

OURS = ("diffgraph", "diffgraph_softmax", "best_single")
"""What an evaluation calls the methods that are no baselines."""


def _refuse(name: str, value: Any) -> str:
    if isinstance(value, type) or not callable(getattr(value, "plan", None)):
        return "an object with `name` and `plan(selection, snapshot)` is wanted"
    return "the name is one of ours" if name in OURS else ""


BASELINES: Extensible[Baseline] = Extensible(
    "baselines",
    {method.name: method for method in (Base(), Single(), Uniform(), UniformStrength(), Random())},
    _refuse,
)
"""The methods by name, those of other packages behind ours."""
