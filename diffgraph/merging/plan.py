"""Which experts are merged, how strongly, and by which rule."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from diffgraph.experts.expert import ExpertRef, Kind

Normalisation = Literal["softmax", "strength", "none"]

STRONGEST = 1.5
"""The strength that a predicted weight of 1 stands for under `strength`."""


class PlannedExpert(BaseModel, frozen=True):
    """An expert's part in a plan."""

    ref: str
    kind: Kind
    coefficient: float = Field(description="before normalisation")
    sha256: str = Field(default="", description="of the weights file; empty: any file of that ref")

    @field_validator("ref")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        ExpertRef.parse(value)
        return value

    @field_validator("coefficient")
    @classmethod
    def _is_finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"a coefficient must be a finite number, not {value}")
        return value


class MergePlan(BaseModel, frozen=True):
    """A plan, frozen and named by its content. No experts at all means the base model."""

    family: str
    experts: tuple[PlannedExpert, ...] = ()
    rule: Literal["linear"] = "linear"
    normalisation: Normalisation = "none"

    @model_validator(mode="after")
    def _names_each_expert_once(self) -> "MergePlan":
        refs = [expert.ref for expert in self.experts]
        repeated = sorted({ref for ref in refs if refs.count(ref) > 1})
        if repeated:
            raise ValueError(f"experts named twice: {', '.join(repeated)}")
        return self

    @property
    def id(self) -> str:
        """Content hash: equal plans have equal ids on any machine."""
        ordered = self.model_copy(
            update={"experts": tuple(sorted(self.experts, key=lambda expert: expert.ref))}
        )
        return hashlib.sha256(ordered.model_dump_json().encode()).hexdigest()[:16]

    def coefficients(self) -> dict[str, float]:
        """Return what each expert's delta is multiplied by, after normalisation within its kind."""
        final: dict[str, float] = {}
        for kind in ("checkpoint", "peft"):
            # in one order, whatever the plan's: sums of floats depend on it in the last bit
            members = sorted(
                (expert for expert in self.experts if expert.kind == kind),
                key=lambda expert: expert.ref,
            )
            values = NORMALISATIONS[self.normalisation](
                kind, [expert.coefficient for expert in members]
            )
            final.update(zip((expert.ref for expert in members), values, strict=True))
        return final


def softmax(kind: str, weights: Sequence[float]) -> list[float]:
    """Return weights that sum to one within a kind: DiffGraph section 3.2."""
    if not weights:
        return []
    top = max(weights)
    exponentials = [math.exp(weight - top) for weight in weights]
    return [value / sum(exponentials) for value in exponentials]


def strength(kind: str, weights: Sequence[float]) -> list[float]:
    """Return `STRONGEST * weight` each; checkpoints that would sum above one share one model.

    PEFT experts keep their own strength: two effects that a prompt asks for are both applied in
    full, not by half. Checkpoints stay a convex combination of whole models, the base among them:
    one that calibration shows to be broken can be turned down even when it is the only one chosen.
    """
    strengths = [STRONGEST * weight for weight in weights]
    if kind == "peft":
        return strengths
    total = max(1.0, sum(strengths))
    return [value / total for value in strengths]


def none(kind: str, weights: Sequence[float]) -> list[float]:
    """Return the weights as they are."""
    return list(weights)


NORMALISATIONS: Mapping[str, Callable[[str, Sequence[float]], list[float]]] = {
    "softmax": softmax,
    "strength": strength,
    "none": none,
}
