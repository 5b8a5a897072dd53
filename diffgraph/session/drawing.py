"""How does a session draw a plan that is decided or given?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbered
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from diffgraph.errors import InputError, PlanError
from diffgraph.families.family import Family, SamplerConfig
from diffgraph.generation import as_image
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.image_metadata import image_metadata
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.plan_files import WrittenPlan, read_plan
from diffgraph.planner.selection import Selection
from diffgraph.session.drawn import Drawn
from diffgraph.session.overrides import NO_OVERRIDES

if TYPE_CHECKING:
    from diffgraph.planner.choices import Choices
    from diffgraph.session.session import Session

GivenPlan = MergePlan | str | PathLike[str]
"""A plan, or the path of any file or folder that holds one."""
OnStep = Callable[[int, int], None]


def given_plan(plan: GivenPlan, family: str) -> WrittenPlan:
    """Return a plan that can be carried out with a family, and what its file says beside it.

    Raises:
        InputError: there is no plan where it should be.
        PlanError: it is another family's.
    """
    written = WrittenPlan(plan) if isinstance(plan, MergePlan) else read_plan(Path(plan))
    if written.plan.family != family:
        raise PlanError(f"the plan is for {written.plan.family}, not for {family}")
    return written


@dataclass(frozen=True)
class Prepared:
    """A prompt with all that its images are made of but their seeds."""

    prompt: str
    plan: MergePlan
    sampler: SamplerConfig
    reasons: tuple[str, ...] = ()
    """Why these experts, a line each."""
    notes: tuple[str, ...] = ()
    """Where the plan was found, if it was given."""
    selection: Selection | None = None


@dataclass(frozen=True)
class Sampling:
    """How a person wants images sampled; None: as usual."""

    steps: int | None = None
    guidance: float | None = None
    size: int | tuple[int, int] | None = None
    """Pixels across and down, or of both."""
    negative: str | None = None
    """What is not to be drawn, beside what the prompt itself says of that."""
    triggers: bool | None = None
    """Whether experts' trigger words are added to the text."""

    def of(self, family: Family, usual: SamplerConfig | None = None) -> SamplerConfig:
        """Return the usual sampler, a family's own by default, with these changes.

        Raises:
            InputError: the family cannot be sampled so.
        """
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        asked = {"steps": self.steps, "guidance": self.guidance, "triggers": self.triggers}
        changed = NO_OVERRIDES.of(usual or family.sampler, size=size, **asked)
        sampler = family.sampled(changed).sampler
        if self.negative and family.is_guidance_distilled:
            raise InputError(f"{family.name} takes no negative prompt: it has one pass a step")
        if self.negative and sampler.guidance <= 1:
            raise InputError(f"a negative prompt does nothing at guidance {sampler.guidance:g}")
        return sampler

    def with_negative(self, prompt: str) -> str:
        """Return a prompt that says what is not to be drawn."""
        words = " ".join((self.negative or "").split())
        return f"{prompt}\nNegative prompt: {words}" if words else prompt


AS_USUAL = Sampling()


def prepare(
    session: "Session",
    prompt: str,
    plan: GivenPlan | None = None,
    method: str = "diffgraph",
    choices: "Choices | None" = None,
    sampling: Sampling = AS_USUAL,
) -> Prepared:
    """Return what is drawn for a prompt, with the given plan or one that is made for it.

    Raises:
        InputError: nothing can be drawn for the prompt; the plan's file or the method cannot be;
            a choice cannot be obeyed; the family cannot be sampled so.
        PlanError: the plan is of another family.
    """
    if not isinstance(prompt, str):
        raise InputError(f"a prompt is one text, not {type(prompt).__name__}")
    prompt = sampling.with_negative(prompt)
    if plan is None:
        sampler = sampling.of(session.family)
        selection, merged = session.decide(prompt, method, choices)
        return Prepared(prompt, merged, sampler, selection.lines(), selection=selection)
    if choices is not None:
        raise InputError("a plan says which experts are merged: none can be chosen beside it")
    written = given_plan(plan, session.family_name)
    sampler = sampling.of(session.family, written.sampler)
    session.agent.parse(prompt)  # says so if there is nothing to draw
    where = () if isinstance(plan, MergePlan) else (f"as planned in {fspath(plan)}",)
    return Prepared(prompt, written.plan, sampler, written.reasons, where)


def images(
    session: "Session", prepared: Prepared, seeds: Sequence[int], on_step: OnStep | None = None
) -> Iterator[Drawn]:
    """Yield an image for each seed as soon as it is done; what is drawn together comes together.

    Raises:
        PlanError: the plan cannot be carried out.
        ExpertError: an expert cannot be merged.
    """
    renderer, plan = session.renderer, prepared.plan
    drawn = renderer.text_of(plan, prepared.prompt, prepared.sampler)
    metadata = metadata_of(session, plan, prepared.sampler, prepared.reasons)
    together = renderer.model.images_together(prepared.sampler)
    steps, all_steps = numbered(1), prepared.sampler.steps * -(-len(seeds) // together)

    def told(_: int) -> None:
        if on_step is not None:
            on_step(next(steps), all_steps)

    for start in range(0, len(seeds), together):
        some = seeds[start : start + together]
        texts = [prepared.prompt] * len(some)
        for pixels, seed in zip(
            renderer.render(plan, texts, some, prepared.sampler, told), some, strict=True
        ):
            yield Drawn(
                image=as_image(pixels, plan),
                metadata=metadata(prepared.prompt, seed, pixels),
                prompt=prepared.prompt,
                drawn_text=drawn.text,
                seed=seed,
                plan=plan,
                sampler=prepared.sampler,
                selection=prepared.selection,
                reasons=(*prepared.notes, *drawn.lines(prepared.prompt), *prepared.reasons),
            )


def metadata_of(
    session: "Session", plan: MergePlan, sampler: SamplerConfig, reasons: Sequence[str]
) -> Callable[[str, int, Tensor], dict[str, str]]:
    """Return what tells what an image says of itself: of its prompt, seed and pixels."""
    sources = session.experts.sources(plan, hashed=True)

    def metadata(prompt: str, seed: int, pixels: Tensor) -> dict[str, str]:
        height, width = pixels.shape[-2:]
        told = settings_of(session, plan, prompt, sampler, seed, (width, height))
        return image_metadata(sources, told, reasons)

    return metadata


def settings_of(
    session: "Session",
    plan: MergePlan,
    prompt: str,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> GenerationSettings:
    """Return how any tool draws a prompt with a plan: the text that is drawn, and the rest."""
    family = session.family
    text = session.renderer.text_of(plan, prompt, sampler).text
    return GenerationSettings.of(family, text, sampler or family.sampler, seed, size)
