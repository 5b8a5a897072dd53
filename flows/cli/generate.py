"""What is drawn for a prompt, and why? Straight from the core: it needs no flow.

Of several prompts each is told as soon as it is done, each image as well, and one that fails costs
the others nothing.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diffgraph.errors import DiffgraphError, ServiceError, SnapshotError, StorageError
from diffgraph.merging.plan_files import EXPERTS, read_plan
from diffgraph.progress import report
from diffgraph.results import Result
from diffgraph.session import Decision, Session
from diffgraph.session.agents import spent_since
from diffgraph.settings import Settings
from diffgraph.targets import demand_folder
from flows.cli.prompt_results import (
    DrawnImage,
    FailedPrompt,
    ImageResults,
    PlannedPrompt,
    PlanResults,
)

if TYPE_CHECKING:
    from diffgraph.families.family import SamplerConfig
    from diffgraph.planner.choices import Choices
    from diffgraph.session.drawing import Sampling
    from diffgraph.session.drawn import Drawn
    from flows.cli.options import PromptSyntax

HOPELESS = (StorageError, ServiceError, SnapshotError)
"""What fails for one prompt and will for the next: the disk, another machine, the graph."""

LONGEST_NOTE = 40  # letters of a prompt beside its progress

Done = TypeVar("Done", bound=Result)
Tell = Callable[[Result], None]
"""Called with what was found out for one prompt, or with one image of it, as soon as it is."""


@dataclass(frozen=True)
class Wishes:
    """How each prompt is drawn."""

    seed: int | None = None
    """Of the first noise of the first image; of each next one, the next."""
    count: int = 1
    plan: Path | None = None
    """Draw with the plan of this file, sampled as it says, instead of a planned one."""
    like: Path | None = None
    """The same, with what the file says is not to be drawn, and from its seed."""
    method: str = "diffgraph"
    choices: "Choices | None" = None
    sampling: "Sampling | None" = None


def plan(
    prompts: Sequence[str],
    settings: Settings,
    tell: Tell,
    wishes: Wishes,
    syntax: "PromptSyntax | None" = None,
) -> PlanResults:
    """Return what would be merged for each prompt; raises what ends all of them."""
    from diffgraph.session.drawing import AS_USUAL

    session, began = Session.of(settings), time.time()
    sampler, method = (wishes.sampling or AS_USUAL).of(session.family), wishes.method

    def planned(prompt: str) -> Iterator[PlannedPrompt]:
        decision = session.decide(prompt, method, wishes.choices)
        yield _planned(session, decision, method, sampler, syntax)

    plans, failed = _each(prompts, planned, tell)
    return PlanResults(plans=plans, failed=failed, spending=spent_since(settings.home, began))


def generate(
    prompts: Sequence[str], settings: Settings, tell: Tell, wishes: Wishes, out: Path = Path(".")
) -> ImageResults:
    """Draw each prompt and write its images into `out`, plan, prompt and seed in each file.

    Args:
        prompts: what to draw.
        settings: where things are.
        tell: called with each image that was drawn.
        wishes: how they are drawn.
        out: the folder of the images.

    Raises:
        DiffgraphError: what fails for all prompts.
    """
    from diffgraph.prompting.syntax import read_prompt
    from diffgraph.session.drawing import AS_USUAL, images, prepare
    from diffgraph.session.drawn import seeds_of
    from flows.cli.image_files import write_image
    from flows.cli.progress_bars import shown

    demand_folder(out, settings)
    session, began = Session.of(settings), time.time()
    sampling, seed, given = wishes.sampling or AS_USUAL, wishes.seed, wishes.like or wishes.plan
    written = read_plan(given) if given else None  # what cannot be is told before anything is drawn
    if written and wishes.like:
        if sampling.negative is None:
            sampling = replace(sampling, negative=read_prompt(written.prompt).negative)
        seed = written.seed if seed is None else seed
    seeds = seeds_of(range(seed or 0, (seed or 0) + wishes.count), None)

    def drawn(prompt: str) -> Iterator[DrawnImage]:
        start = time.perf_counter()
        prepared = prepare(session, prompt, given, wishes.method, wishes.choices, sampling)
        with shown(only_bars=True):
            found = images(session, prepared, seeds, _steps_of(prompt))
            for number, image in enumerate(found):
                file = write_image(image, out)
                end = time.perf_counter()
                yield _told(image, file, end - start, number)
                start = end

    drawings, failed = _each(prompts, drawn, tell)
    return ImageResults(images=drawings, failed=failed, spending=spent_since(settings.home, began))


def _steps_of(prompt: str) -> Callable[[int, int], None]:
    return lambda done, steps: report("draw", done, steps, prompt[:LONGEST_NOTE])


def _each(
    prompts: Sequence[str], work: Callable[[str], Iterator[Done]], tell: Tell
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
            for result in work(prompt):
                done.append(result)
                tell(result)
        except DiffgraphError as error:
            last = error
            failed.append(_failed(prompt, error))
    if last and not done and (isinstance(last, HOPELESS) or len({f.reason for f in failed}) == 1):
        raise last
    return tuple(done), tuple(failed)


def _failed(prompt: str, error: DiffgraphError, before: str = "") -> FailedPrompt:
    return FailedPrompt(prompt=prompt, reason=f"{before}{error}", error=type(error).__name__)


def _planned(
    session: Session,
    decision: Decision,
    method: str,
    sampler: "SamplerConfig",
    syntax: "PromptSyntax | None",
) -> PlannedPrompt:
    from diffgraph.merging.other_tools import said_to
    from diffgraph.merging.provenance import credits
    from diffgraph.session.drawing import settings_of

    plan, prompt = decision.plan, decision.selection.prompt
    sources = session.experts.sources(plan, hashed=bool(syntax))
    told = session.renderer.text_of(plan, prompt, sampler)
    drawn = settings_of(session, plan, prompt, sampler)
    return PlannedPrompt(
        prompt=prompt,
        method=method,
        plan_id=plan.id,
        plan=plan.model_dump(mode="json"),
        coefficients=plan.coefficients(),
        selection=decision.selection.model_dump(mode="json"),
        drawn_text=told.text,
        explanation=(*decision.selection.lines(), *told.lines(prompt)),
        credits=tuple(credits(plan, sources.experts)),
        debts=sources.debts,
        text=said_to(syntax.value, sources, drawn) if syntax else "",
    )


def _told(image: "Drawn", file: Path, seconds: float, number: int) -> DrawnImage:
    experts = json.loads(image.metadata[EXPERTS])
    return DrawnImage(
        file=file,
        prompt=image.prompt,
        drawn_text=image.drawn_text,
        seed=image.seed,
        plan_id=image.plan.id,
        coefficients=image.plan.coefficients(),
        names={expert["ref"]: expert["name"] for expert in experts},
        explanation=image.reasons,
        sampler=image.sampler.model_dump(mode="json"),
        seconds=round(seconds, 3),
        number=number,
    )
