"""Which merge rules are there, and what numbers does each take?

Names and ranges only, so that a plan can be read without loading torch. What the rules do is in
`diffgraph.merging.rules`, with the same names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RuleName = Literal[
    "linear", "task_arithmetic", "ties", "dare", "dare_ties", "della", "slerp", "k_lora"
]
Parameter = float | str
LINEAR: tuple[RuleName, ...] = ("linear", "task_arithmetic")
"""The rules that are base + sum of coefficient * delta, whatever the deltas are."""


@dataclass(frozen=True)
class Number:
    """A number that a rule takes."""

    default: float
    low: float  # the range, both ends included but for a share's 0
    high: float
    meaning: str
    above_low: bool = False

    def check(self, name: str, value: Parameter) -> float:
        """Return the value as a number in range, or raise ValueError."""
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number, not {value!r}")
        low_enough = value > self.low if self.above_low else value >= self.low
        if not (math.isfinite(value) and low_enough and value <= self.high):
            bracket = "(" if self.above_low else "["
            raise ValueError(f"{name} must be in {bracket}{self.low}, {self.high}], not {value}")
        return float(value)


@dataclass(frozen=True)
class Name:
    """The reference of one of the plan's experts."""

    meaning: str

    def check(self, name: str, value: Parameter) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{name} must be the reference of an expert, not {value!r}")
        return value


def _density(default: float) -> Number:
    return Number(default, 0, 1, "the share of a delta's entries that is kept", above_low=True)


RULE_PARAMETERS: Mapping[RuleName, Mapping[str, Number | Name]] = {
    "linear": {},
    "task_arithmetic": {"lambda": Number(1.0, -10, 10, "what all coefficients are multiplied by")},
    "ties": {"density": _density(0.2)},
    "dare": {"density": _density(0.5)},
    "dare_ties": {"density": _density(0.5)},
    "della": {
        "density": _density(0.5),
        "spread": Number(0.2, 0, 1, "how far the shares of a row's entries lie apart"),
    },
    "slerp": {},
    "k_lora": {
        "content": Name("the expert that draws the subject; the other one draws the style"),
        "alpha": Number(1.5, 0, 100, "how fast the style's weight grows", above_low=True),
        "beta": Number(1.275, 0, 100, "the style's weight at the first step"),
        "wraps": Number(1, 0, 1, "1: the style's weight starts again at 0 when it reaches alpha"),
    },
}


def completed(rule: RuleName, given: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return a rule's parameters with the defaults of those not given, ordered by name.

    Raises:
        ValueError: one is unknown, out of its range, or missing and without a default.
    """
    known = RULE_PARAMETERS[rule]
    if unknown := sorted(set(given) - set(known)):
        takes = ", ".join(known) or "none"
        raise ValueError(f"the rule {rule} has no parameter {', '.join(unknown)}; it takes {takes}")
    found: dict[str, Parameter] = {}
    for name, kind in sorted(known.items()):
        if name in given:
            found[name] = kind.check(name, given[name])
        elif isinstance(kind, Number):
            found[name] = kind.default
        else:
            raise ValueError(f"the rule {rule} needs {name}: {kind.meaning}")
    if rule == "della":
        _check_spread(found)
    return found


def _check_spread(parameters: Mapping[str, Parameter]) -> None:
    density, spread = float(parameters["density"]), float(parameters["spread"])
    if density - spread / 2 <= 0 or density + spread / 2 > 1:
        raise ValueError(
            f"density {density} with a spread of {spread} is not within (0, 1] for every entry"
        )
