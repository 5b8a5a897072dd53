"""What would others have done with the same selection? One file a method.

Every method gives a merge plan, as DiffGraph itself does, and one path turns plans into images:
methods differ in the plan and in nothing else. A new one is a file here and a line in
`BASELINES`.
"""

from collections.abc import Mapping

from diffgraph.baselines.base import Base
from diffgraph.baselines.baseline import Baseline
from diffgraph.baselines.random import Random
from diffgraph.baselines.single import Single
from diffgraph.baselines.uniform import Uniform
from diffgraph.baselines.uniform_strength import UniformStrength

__all__ = [
    "BASELINES", "Base", "Baseline", "Random", "Single", "Uniform", "UniformStrength",
]  # fmt: skip

BASELINES: Mapping[str, Baseline] = {
    method.name: method for method in (Base(), Single(), Uniform(), UniformStrength(), Random())
}
"""The methods by name."""
