"""Who is better, and are we sure? Means, intervals and paired differences over prompts.

The prompts are the sample: seeds of one prompt are averaged first, since two images of the same
prompt say less than images of two prompts. Methods share prompts, seeds and noise, so that their
differences are paired.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

Values = NDArray[np.float64]

FACTS = ("method", "prompt_id", "prompt", "seed", "plan_id")
"""What a row says beside its reward and its scores, which methods are compared by."""

SAMPLES = 10_000
CHUNK = 1_000
"""Bootstrap samples drawn at a time: bounds the memory."""


class Interval(BaseModel, frozen=True):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


class MethodSummary(BaseModel, frozen=True):
    """How a method did, alone and against the reference method."""

    method: str
    prompts: int
    scores: dict[str, Interval] = Field(description="by column: the reward and each score")
    lead: dict[str, Interval] = Field(
        description="by column: the reference method minus this one, paired; empty for itself"
    )
    win_rate: float | None = Field(
        description="share of prompts where the reference earns more reward; ties: half"
    )


class Summary(BaseModel, frozen=True):
    """All methods of an evaluation, best mean reward first."""

    reference: str
    seeds: int
    methods: tuple[MethodSummary, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """What methods were compared by: the reward first, then each score."""
        return tuple(self.methods[0].scores)

    def of(self, method: str) -> MethodSummary:
        """Return one method's part."""
        return next(summary for summary in self.methods if summary.method == method)


def paired_bootstrap(
    a: Sequence[float] | Values,
    b: Sequence[float] | Values,
    *,
    samples: int = SAMPLES,
    generator: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the mean of a - b over prompts with its 95 % percentile interval (mean, low, high).

    Args:
        a: one value per prompt.
        b: one value per prompt, the same prompts in the same order.
        samples: how often the prompts are drawn anew, with replacement.
        generator: where the draws come from.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise ValueError(f"expected one pair a prompt, found shapes {left.shape} and {right.shape}")
    interval = bootstrap_mean(left - right, samples=samples, generator=generator)
    return interval.mean, interval.low, interval.high


def bootstrap_mean(
    values: Sequence[float] | Values, *, samples: int = SAMPLES, generator: np.random.Generator
) -> Interval:
    """Return the mean over prompts with its 95 % percentile bootstrap interval."""
    data = np.asarray(values, dtype=np.float64)
    means = np.concatenate(
        [
            data[generator.integers(len(data), size=(min(CHUNK, samples - start), len(data)))].mean(
                1
            )
            for start in range(0, samples, CHUNK)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean=float(data.mean()), low=float(low), high=float(high))


def win_rate(a: Values, b: Values) -> float:
    """Return the share of prompts where a is above b; a tie counts half."""
    return float(np.mean((a > b) + 0.5 * (a == b)))


def summarise(
    table: pa.Table,
    reference: str = "diffgraph",
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Summary:
    """Return means, paired leads of the reference method and win rates.

    Args:
        table: what `evaluate` returns: a row per method, prompt and seed.
        reference: the method that the others are compared with.
        samples: bootstrap samples.
        seed: of the bootstrap, so that the same table has the same intervals.
    """
    by_method, seeds = _by_method(table)
    if reference not in by_method:
        raise ValueError(f"no method {reference!r} to compare with; found: {sorted(by_method)}")
    champion = by_method[reference]
    generator = np.random.default_rng(seed)

    def draw(values: Values) -> Interval:
        return bootstrap_mean(values, samples=samples, generator=generator)

    methods = [
        MethodSummary(
            method=name,
            prompts=len(values["reward"]),
            scores={column: draw(values[column]) for column in values},
            lead={}
            if name == reference
            else {column: draw(champion[column] - values[column]) for column in values},
            win_rate=None if name == reference else win_rate(champion["reward"], values["reward"]),
        )
        for name, values in by_method.items()
    ]
    methods.sort(key=lambda summary: -summary.scores["reward"].mean)
    return Summary(reference=reference, seeds=seeds, methods=tuple(methods))


def _by_method(table: pa.Table) -> tuple[dict[str, dict[str, Values]], int]:
    """Return method → column → one value per prompt, in one order; and the seeds a prompt."""
    columns = ("reward", *(n for n in table.column_names if n not in (*FACTS, "reward")))
    cells: dict[str, dict[str, list[list[float]]]] = {}
    for row in table.to_pylist():
        cell = cells.setdefault(row["method"], {}).setdefault(row["prompt_id"], [])
        cell.append([row[column] for column in columns])
    if not cells:
        raise ValueError("nothing was evaluated: the table is empty")
    prompts = sorted(next(iter(cells.values())))
    for name, found in cells.items():
        if sorted(found) != prompts:
            raise ValueError(
                f"{name} was not evaluated on the same prompts: the rows are not paired"
            )
    means = {
        name: np.array([np.mean(found[prompt], axis=0) for prompt in prompts])
        for name, found in cells.items()
    }
    seeds = max(len(values) for found in cells.values() for values in found.values())
    return {
        name: dict(zip(columns, values.T, strict=True)) for name, values in means.items()
    }, seeds
