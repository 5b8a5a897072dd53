"""What is drawn for a prompt, and why? Straight from the core: it needs no flow.

Of several prompts each is told as soon as it is done, and one that fails costs the others nothing.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffgraph.agents.spending import Spending
from diffgraph.errors import (
    DiffgraphError,
    InputError,
    ServiceError,
    SnapshotError,
    StorageError,
)
from diffgraph.results import Result, Rows, rows
from diffgraph.session import Decision, Session
from diffgraph.session.agents import spent_since
from diffgraph.settings import Settings
from diffgraph.targets import demand_folder

if TYPE_CHECKING:
    from diffgraph.merging.plan import MergePlan
    from diffgraph.planner.selection import Selection

LONGEST_NAME = 48
HOPELESS = (StorageError, ServiceError, SnapshotError)
"""What fails for one prompt and will for the next: the disk, another machine, the graph."""

Done = TypeVar("Done", bound=Result)
Tell = Callable[[Result], None]
"""Called with what was found out for one prompt, as soon as it is."""


class PlannedPrompt(Result):
    """What would be merged for a prompt, and why."""

    prompt: str
    method: str
    plan_id: str
    plan: dict[str, Any]
    coefficients: dict[str, float]
    selection: dict[str, Any]
    explanation: tuple[str, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield what was asked for, who serves it how strongly, and who was left out and why."""
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
    seed: int
    plan_id: str
    coefficients: dict[str, float]
    names: dict[str, str]
    explanation: tuple[str, ...]
    sampler: dict[str, Any]
    seconds: float

    def lines(self) -> Iterator[str | Rows]:
        """Yield where it is, how long it took, and what made it."""
        yield f"{self.file}  ({self.seconds:.1f} s)"
        yield from (f"  {line}" for line in self.explanation)
        for ref, coefficient in self.coefficients.items():
            yield f"  {coefficient:6.3f}  {ref}  {self.names.get(ref, '')}".rstrip()


class ImageResults(PromptResults):
    """The images of several prompts."""

    images: tuple[DrawnImage, ...]


def plan(
    prompts: Sequence[str], settings: Settings, tell: Tell, method: str = "diffgraph"
) -> PlanResults:
    """Return what would be merged for each prompt; raises what ends all of them."""
    session, start = Session.of(settings), time.time()
    plans, failed = _each(
        prompts, lambda prompt: _planned(session.decide(prompt, method), method), tell
    )
    return PlanResults(plans=plans, failed=failed, spending=spent_since(settings.home, start))


def generate(
    prompts: Sequence[str],
    settings: Settings,
    tell: Tell,
    seed: int = 0,
    plan_file: Path | None = None,
    out: Path = Path("."),
    method: str = "diffgraph",
) -> ImageResults:
    """Draw each prompt and write it into `out`, its plan, prompt and seed in the file.

    Args:
        prompts: what to draw.
        settings: where things are.
        tell: called with each image that was drawn.
        seed: of the first noise, the same for each prompt.
        plan_file: draw with this plan instead of a planned one.
        out: the folder of the images.
        method: how experts are merged.

    Raises:
        DiffgraphError: what fails for all prompts.
    """
    from diffgraph.merging.plan_files import read_plan

    demand_folder(out, settings)
    session, began = Session.of(settings), time.time()
    given = read_plan(plan_file).plan if plan_file else None

    def drawn(prompt: str) -> DrawnImage:
        start = time.perf_counter()
        (image,) = session.draw(prompt, seed, plan=given, method=method)
        merged = image.plan
        file = _free(out / _file_name(prompt, merged.id, seed), merged, prompt, seed)
        image.save(file)
        return DrawnImage(
            file=file,
            prompt=prompt,
            seed=seed,
            plan_id=merged.id,
            coefficients=merged.coefficients(),
            names=_names(image.selection),
            explanation=image.reasons or (f"as planned in {plan_file}",),
            sampler=image.sampler.model_dump(mode="json"),
            seconds=round(time.perf_counter() - start, 3),
        )

    images, failed = _each(prompts, drawn, tell)
    return ImageResults(images=images, failed=failed, spending=spent_since(settings.home, began))


def _each(
    prompts: Sequence[str], work: Callable[[str], Done], tell: Tell
) -> tuple[tuple[Done, ...], tuple[FailedPrompt, ...]]:
    """Do the work for every prompt; return what was done and what failed.

    Raises:
        DiffgraphError: nothing was done, and for one and the same reason.
    """
    done: list[Done] = []
    failed: list[FailedPrompt] = []
    last: DiffgraphError | None = None
    for prompt in prompts:
        if isinstance(last, HOPELESS):
            failed.append(_failed(prompt, last, "not tried: "))
            continue
        try:
            done.append(work(prompt))
        except DiffgraphError as error:
            last = error
            failed.append(_failed(prompt, error))
        else:
            tell(done[-1])
    if last and not done and (isinstance(last, HOPELESS) or len({f.reason for f in failed}) == 1):
        raise last
    return tuple(done), tuple(failed)


def _failed(prompt: str, error: DiffgraphError, before: str = "") -> FailedPrompt:
    return FailedPrompt(prompt=prompt, reason=f"{before}{error}", error=type(error).__name__)


def _planned(decision: Decision, method: str) -> PlannedPrompt:
    return PlannedPrompt(
        prompt=decision.selection.prompt,
        method=method,
        plan_id=decision.plan.id,
        plan=decision.plan.model_dump(mode="json"),
        coefficients=decision.plan.coefficients(),
        selection=decision.selection.model_dump(mode="json"),
        explanation=decision.selection.lines(),
    )


def _names(selection: "Selection | None") -> dict[str, str]:
    """Return the names of the chosen experts, by reference."""
    return {choice.ref: choice.name for choice in selection.experts} if selection else {}


def _file_name(prompt: str, plan_id: str, seed: int) -> str:
    """Return a name that a person recognises and no prompt can make a path of."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:LONGEST_NAME].strip("-")
    return f"{words or 'image'}-{plan_id[:8]}-{seed}.png"


def _free(file: Path, plan: "MergePlan", prompt: str, seed: int) -> Path:
    """Return a name that is free, or that this same image has: other prompts may look alike."""
    from diffgraph.merging.plan_files import read_plan

    number = 1
    while os.path.lexists(name := file if number == 1 else file.with_stem(f"{file.stem}-{number}")):
        with suppress(InputError):
            if read_plan(name) == (plan, prompt, seed):
                break
        number += 1
    return name
