"""Why does an image look as it does? What it says of itself: its experts, reasons and licences."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from diffgraph.experts.expert import Licence
from diffgraph.merging.plan_files import DEBTS, EXPERTS, read_plan
from diffgraph.results import Result, Rows, rows

DRAWN_TEXT = "diffgraph.drawn_text"


class CreditedExpert(BaseModel, frozen=True):
    """An expert with a part in an image, as the image says it."""

    ref: str
    name: str = ""
    kind: str = ""
    page: str = ""
    licence: Licence = Licence()


class ExplainedImage(Result):
    """An image of ours, explained by what it says of itself."""

    file: Path
    prompt: str
    drawn_text: str
    seed: int | None
    sampler: dict[str, Any] | None
    plan_id: str
    plan: dict[str, Any]
    coefficients: dict[str, float]
    explanation: tuple[str, ...]
    experts: tuple[CreditedExpert, ...]
    debts: tuple[str, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield what was drawn and how, why so, and who made what is merged in it."""
        yield f"{self.file}: {self.prompt}"
        if self.drawn_text not in ("", self.prompt):
            yield f"  drawn: {self.drawn_text}"
        yield from (f"  {line}" for line in self.explanation)
        known = {expert.ref: expert for expert in self.experts}
        if self.coefficients:
            yield rows(
                ("strength", "expert", "licence", "by", "reference"),
                [
                    (strength, *_called(known.get(ref)), ref)
                    for ref, strength in self.coefficients.items()
                ],
            )
        yield from (f"owed: {line}" for line in self.debts)
        seed = {} if self.seed is None else {"seed": self.seed}
        settings = {**seed, **(self.sampler or {})}
        told = "".join(f", {name} {_shown(value)}" for name, value in settings.items())
        yield f"plan {self.plan_id} of {self.plan['family']}{told}"


def explain(path: Path) -> ExplainedImage:
    """Return what an image says of itself.

    Raises:
        MissingInput: it cannot be read, or is not of ours.
        InputError: what it says cannot be.
    """
    written = read_plan(path)
    return ExplainedImage(
        file=path,
        prompt=written.prompt,
        drawn_text=written.told.get(DRAWN_TEXT, ""),
        seed=written.seed,
        sampler=written.sampler and written.sampler.model_dump(mode="json"),
        plan_id=written.plan.id,
        plan=written.plan.model_dump(mode="json"),
        coefficients=written.plan.coefficients(),
        explanation=written.reasons,
        experts=_experts(written.told),
        debts=tuple(written.told.get(DEBTS, "").splitlines()),
    )


def _experts(told: Mapping[str, str]) -> tuple[CreditedExpert, ...]:
    """Return the experts that an image names; none where what it says of them cannot be read."""
    try:
        return TypeAdapter(tuple[CreditedExpert, ...]).validate_json(told.get(EXPERTS, "[]"))
    except ValidationError:
        return ()


def _called(expert: CreditedExpert | None) -> tuple[str, str, str]:
    if expert is None:
        return "", "", ""
    return expert.name, expert.licence.name, expert.licence.creator


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else f"{value:g}"
