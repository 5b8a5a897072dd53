"""What a person is told of prompts that were planned or drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffgraph.agents.spending import Spending
from diffgraph.results import Result, Rows, rows


class PlannedPrompt(Result):
    """What would be merged for a prompt, and why."""

    prompt: str
    method: str
    plan_id: str
    plan: dict[str, Any]
    coefficients: dict[str, float]
    selection: dict[str, Any]
    drawn_text: str
    """What the base model would be told."""
    explanation: tuple[str, ...]
    credits: tuple[dict[str, Any], ...]
    """Who made each expert, and under which licence."""
    debts: tuple[str, ...]
    """What these licences ask of whoever passes on what is drawn or merged."""
    text: str = ""
    """The plan and the prompt in another tool's words, where one is asked for."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield what was asked for, who serves it how strongly, and who was left out and why.

        What is said to another tool is yielded alone, to be copied.
        """
        if self.text:
            yield from self.text.splitlines()
            return
        yield self.prompt
        yield f"  {self.explanation[0]}"
        chosen = {choice["ref"]: choice for choice in self.selection["experts"]}
        # what neither the tables nor the first line says: unknown words, that no expert fits
        yield from (f"  {line}" for line in self.explanation[1:] if line[:2] not in ("+ ", "- "))
        if self.coefficients:
            yield rows(
                ("strength", "expert", "kind", "why", "reference"),
                [
                    (value, *_told(chosen.get(ref, {}), "name", "kind", "reason"), ref)
                    for ref, value in self.coefficients.items()
                ],
            )
        unused = [
            {**choice, "reason": f"{choice['reason']}, but {self.method} makes no use of it"}
            for ref, choice in chosen.items()
            if ref not in self.coefficients
        ]
        if left_out := [*unused, *self.selection["dropped"]]:
            yield rows(
                ("left out", "kind", "why", "reference"),
                [_told(choice, "name", "kind", "reason", "ref") for choice in left_out],
            )
        yield f"plan {self.plan_id} ({self.method}, {self.plan['normalisation']})"
        yield from (f"owed: {line}" for line in self.debts)


def _told(choice: dict[str, Any], *columns: str) -> tuple[str, ...]:
    return tuple(str(choice.get(column, "")) for column in columns)


class FailedPrompt(Result):
    """A prompt that nothing could be done for."""

    prompt: str
    reason: str
    error: str
    """The name of its class in `diffgraph.errors`."""


class PromptResults(Result):
    """The results of several prompts; each is printed as soon as it is done."""

    failed: tuple[FailedPrompt, ...] = ()
    spending: Spending = Spending()
    """What the answers of a language model took."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield what is left to say at the end."""
        if self.spending.answers:
            yield self.spending.line()


class PlanResults(PromptResults):
    """The plans of several prompts."""

    plans: tuple[PlannedPrompt, ...]


class DrawnImage(Result):
    """An image that was drawn."""

    file: Path
    prompt: str
    drawn_text: str
    """What the base model was told."""
    seed: int
    plan_id: str
    coefficients: dict[str, float]
    names: dict[str, str]
    explanation: tuple[str, ...]
    sampler: dict[str, Any]
    seconds: float
    number: int = 0
    """Among the images of its prompt, from 0."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield where it is and how long it took; with the first of a prompt, what made it."""
        yield f"{self.file}  ({self.seconds:.1f} s)"
        if self.number:
            return
        yield from (f"  {line}" for line in self.explanation)
        for ref, coefficient in self.coefficients.items():
            yield f"  {coefficient:6.3f}  {ref}  {self.names.get(ref, '')}".rstrip()


class ImageResults(PromptResults):
    """The images of several prompts."""

    images: tuple[DrawnImage, ...]
