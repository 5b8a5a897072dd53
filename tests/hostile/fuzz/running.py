"""How are examples of a kind of input tried, each in an empty folder and within its bounds?"""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile.fuzz.bounds import bounded
from tests.hostile.fuzz.properties import Property


def try_examples(tried: Property, count: int, number: int | None = None) -> None:
    """Raise with the smallest example that Hypothesis finds to break the rule.

    Args:
        tried: a kind of input and its rule.
        count: of examples.
        number: a seed; by default the same examples every time.
    """

    @settings(
        max_examples=count,
        database=None,
        deadline=None,  # the bounds say what an example may take
        derandomize=number is None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(tried.inputs)
    def rule(example: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="diffgraph-fuzz-") as folder, bounded():
            tried.check(example, Path(folder))

    (rule if number is None else seed(number)(rule))()
