"""Which experts are merged, how strongly, and by which rule."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from diffgraph.experts.expert import ExpertRef, Kind
from diffgraph.merging.parameters import (
    LINEAR,
    RULE_PARAMETERS,
    Parameter,
    RuleName,
    completed,
)

Normalisation = Literal["softmax", "strength", "none"]

KINDS: tuple[Kind, ...] = ("checkpoint", "peft")

LARGEST = 1e18
"""No coefficient is larger: times the largest scale of an adapter it still fits float32."""
STRONGEST = 1.5  # the strength that a predicted weight of 1 stands for under `strength`


class _Checked(BaseModel, frozen=True, extra="forbid"):
    """What stays valid: pydantic's own `model_copy` would take any `update` unseen."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with these fields changed, checked like any other."""
        copy = super().model_copy(deep=deep)
        return type(self).model_validate({**dict(copy), **update}) if update else copy


class PlannedExpert(_Checked):
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
        if abs(value) > LARGEST:
            raise ValueError(f"a coefficient must be within ±{LARGEST:g}, not {value:g}")
        return value


class MergePlan(_Checked):
    """A plan, frozen and named by its content. No experts at all means the base model."""

    family: str
    experts: tuple[PlannedExpert, ...] = ()
    rule: RuleName = "linear"
    normalisation: Normalisation = "none"
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="of the rule; its defaults are filled in"
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_its_parameters(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        rule, given = data.get("rule", "linear"), data.get("parameters", {})
        if not isinstance(rule, str) or rule not in RULE_PARAMETERS or not isinstance(given, dict):
            return data  # the fields' own checks say what is wrong
        # the defaults become part of the plan: it stays what it is when they change
        return {**data, "parameters": completed(cast(RuleName, rule), given)}

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = handler(self)
        if not self.parameters:
            told.pop("parameters", None)  # so that plans keep the names they had before
        return told

    @model_validator(mode="after")
    def _names_each_expert_once(self) -> "MergePlan":
        refs = [expert.ref for expert in self.experts]
        repeated = sorted({ref for ref in refs if refs.count(ref) > 1})
        if repeated:
            raise ValueError(f"experts named twice: {', '.join(repeated)}")
        return self

    @model_validator(mode="after")
    def _fits_its_rule(self) -> "MergePlan":
        count = {kind: sum(expert.kind == kind for expert in self.experts) for kind in KINDS}
        if self.rule == "slerp" and count["checkpoint"] != 2:
            raise ValueError(f"slerp takes two checkpoints, not {count['checkpoint']}")
        if self.rule == "k_lora":
            if count["peft"] != 2:
                raise ValueError(f"k_lora takes two PEFT experts, not {count['peft']}")
            content = self.parameters["content"]
            if content not in [expert.ref for expert in self.experts if expert.kind == "peft"]:
                raise ValueError(f"k_lora: {content} is not one of the plan's PEFT experts")
        return self

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def is_linear(self) -> bool:
        """Whether the model is base + sum of `coefficients()` * delta, and nothing else."""
        return self.rule in LINEAR

    @property
    def id(self) -> str:
        """Content hash: equal plans have equal ids on any machine."""
        experts = tuple(sorted(self.experts, key=lambda expert: expert.ref))
        ordered = BaseModel.model_copy(self, update={"experts": experts})
        return hashlib.sha256(ordered.model_dump_json().encode()).hexdigest()[:16]

    def coefficients(self) -> dict[str, float]:
        """Return what each expert's delta is multiplied by, after normalisation within its kind."""
        final: dict[str, float] = {}
        times = float(self.parameters.get("lambda", 1.0))
        for kind in KINDS:
            # in one order, whatever the plan's: sums of floats depend on it in the last bit
            members = sorted(
                (expert for expert in self.experts if expert.kind == kind),
                key=lambda expert: expert.ref,
            )
            values = NORMALISATIONS[self.normalisation](
                kind, [expert.coefficient for expert in members]
            )
            refs = (expert.ref for expert in members)
            final.update(zip(refs, (times * value for value in values), strict=True))
        return final

    def with_strengths(self, strengths: Mapping[str, float]) -> Self:
        """Return the plan that merges some experts with exactly these final coefficients.

        The others keep theirs, as far as their kind shares one whole: under `softmax`, and
        checkpoints always, they share what these leave of it.

        Args:
            strengths: reference → coefficient; of who is no part of the plan nothing is taken.
        """
        given = {one.ref: strengths[one.ref] for one in self.experts if one.ref in strengths}
        if not given:
            return self
        final, times = self.coefficients(), float(self.parameters.get("lambda", 1.0))
        for kind in KINDS:
            refs = [expert.ref for expert in self.experts if expert.kind == kind]
            others = {ref: final[ref] for ref in refs if ref not in given}
            if len(others) == len(refs) or (kind == "peft" and self.normalisation != "softmax"):
                continue
            left = max(0.0, times - sum(given[ref] for ref in refs if ref in given))
            total = sum(others.values())
            if total > left or self.normalisation == "softmax":
                final.update({ref: value * left / total for ref, value in others.items() if total})
        final |= given
        experts = tuple(
            expert.model_copy(update={"coefficient": final[expert.ref] / times})
            for expert in self.experts
        )
        return self.model_copy(update={"experts": experts, "normalisation": "none"})


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
