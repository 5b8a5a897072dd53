"""What would others have done with the same selection?

Every method gives a merge plan, as DiffGraph itself does, and one path turns plans into images:
methods differ in the plan and in nothing else. A new one is a line in `BASELINES`, or comes with a
package.
"""

from typing import Any

from diffgraph.baselines.baseline import Baseline
from diffgraph.baselines.fixed import UNIFORM, UNIFORM_STRENGTH, Base, Random
from diffgraph.baselines.single import Single
from diffgraph.extensions import Extensible

__all__ = ["BASELINES", "OURS", "Baseline", "Random", "Single"]

OURS = ("diffgraph", "diffgraph_softmax", "best_single")
"""What an evaluation calls the methods that are no baselines."""


def _refuse(name: str, value: Any) -> str:
    if isinstance(value, type) or not callable(getattr(value, "plan", None)):
        return "an object with `name` and `plan(selection, snapshot)` is wanted"
    return "the name is one of ours" if name in OURS else ""


_BUILT_IN: tuple[Baseline, ...] = (Base(), Single(), UNIFORM, UNIFORM_STRENGTH, Random())
BASELINES = Extensible("baselines", {method.name: method for method in _BUILT_IN}, _refuse)
"""The methods by name, those of other packages behind ours."""
