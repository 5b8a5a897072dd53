"""What turns a prompt into a plan, an image, a pipeline, a file?

A process keeps models at hand, loaded once, and the graph and planner in force. Without a snapshot
or planner of its own, a home uses those that ship with the family.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.errors import MissingInput, packages_demanded
from diffgraph.families import Family, get_family
from diffgraph.session import loaded
from diffgraph.session.deciding import Decision, WantedExperts, choices_of, decide, settled
from diffgraph.session.overrides import NO_OVERRIDES, Overrides, read_overrides
from diffgraph.session.planners import (
    UNTRAINED,
    load_planner,
    planner_content,
    planner_folder,
    planner_in_force,
)
from diffgraph.settings import Settings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from diffgraph.agents import Agent
    from diffgraph.evaluation.methods import MethodPlans
    from diffgraph.generation import Renderer
    from diffgraph.graph.embedding import TextEmbedder
    from diffgraph.graph.snapshot import GraphSnapshot
    from diffgraph.merging.plan import MergePlan
    from diffgraph.merging.to_file import OnProgress
    from diffgraph.planner.choices import Choices
    from diffgraph.planner.expert_names import ExpertNames
    from diffgraph.planner.planner import Planner
    from diffgraph.planner.selection import Selection
    from diffgraph.scoring import Scorer
    from diffgraph.session.drawing import GivenPlan, OnStep
    from diffgraph.session.drawn import Drawn
    from diffgraph.session.known_experts import KnownExperts
    from diffgraph.session.merged_files import MergedFile
    from diffgraph.targets import FileLayout, FileType


@dataclass(frozen=True)
class Session:
    """A home, a family and a device, and all that is done with them. Threads may share one."""

    home: Path
    family_name: str
    device: str = "auto"
    agent_name: str = "offline"
    snapshot_id: str | None = None
    planner_folder: Path | None = None
    overrides: Overrides = NO_OVERRIDES
    planner_content: str | None = None
    """What `planner_id` must be: a folder's content may change, an id's not."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        family: str | None = None,
        snapshot: str | None = None,
        planner: Path | None = None,
    ) -> "Session":
        """Return the session that the settings describe."""
        return cls(
            settings.home,
            family or settings.family,
            settings.device,
            settings.agent,
            snapshot,
            planner,
            read_overrides(settings.config),
        )

    def __reduce__(self) -> tuple[type["Session"], tuple[object, ...]]:
        """Travel light, and by ids: another process loads the very graph and planner used here."""
        pinned = self.pinned()
        return Session, tuple(getattr(pinned, field.name) for field in fields(self))

    def pinned(self) -> "Session":
        """Return this session bound to the graph and planner that are in force now.

        Whatever comes into force later, it uses these, wherever it goes, or says that they have
        gone. Where no planner can be read yet, none is bound: a training needs none.

        Raises:
            SnapshotError: there is no graph.
            MissingInput: the planner that it was bound to cannot be read.
        """
        folder, content = self.planner_folder, self.planner_content
        try:
            folder, content = self.planner_used
        except MissingInput:
            if folder is not None:
                raise
        return replace(
            self,
            snapshot_id=self.graph.id,
            planner_folder=folder,
            planner_content=content,
        )

    @property
    def family(self) -> Family:
        """The model family, sampled as the settings say; raises `InputError` if it cannot be."""
        family = get_family(self.family_name)
        return family.sampled(self.overrides.of(family.sampler))

    @property
    def renderer(self) -> "Renderer":
        """What draws plans; the base model stays loaded."""
        return loaded.renderer(self.home, self.family_name, self.device, self.family.sampler)

    @property
    def scorers(self) -> "dict[str, Scorer]":
        """The scorers of the graph in force, in the order of its scores."""
        return self.scorers_of(self.graph.score_names)

    def scorers_of(self, names: tuple[str, ...]) -> "dict[str, Scorer]":
        """Return the family's scorers of these names."""
        return loaded.scorers(self.family_name, names, str(self.renderer.device))

    @property
    def scorers_id(self) -> str:
        """The identity of `scorers`: equal identities give equal scores."""
        from diffgraph.scoring import identity_of

        return identity_of(self.family_name, self.graph.score_names)

    @property
    def embedder(self) -> "TextEmbedder":
        """What places texts among others."""
        return loaded.embedder()

    @property
    def agent(self) -> "Agent":
        """Who reads pages and prompts."""
        return loaded.agent(self.agent_name, self.family_name, self.home)

    @cached_property
    def graph(self) -> "GraphSnapshot":
        """The graph in force: the home's, or else the one that ships with the family."""
        from diffgraph.session.snapshots import find_snapshot

        return find_snapshot(self.home, self.family_name, self.snapshot_id)

    @property
    def planner(self) -> "Planner | None":
        """The planner in force: the home's champion, or the one that ships; None before any is."""
        folder, content = self.planner_used
        return None if content == UNTRAINED else load_planner(folder, content)

    @property
    def planner_id(self) -> str:
        """The content hash of the planner in force."""
        return self.planner_used[1]

    @cached_property
    def planner_used(self) -> tuple[Path, str]:
        """The folder of the planner in force, and its content hash: looked up once."""
        if self.planner_folder is None:
            return planner_in_force(self.home, self.family_name)
        content = planner_content(self.planner_folder)
        if self.planner_content not in (None, content):
            raise MissingInput(
                f"{self.planner_folder} holds planner {content}, not {self.planner_content}: it "
                "has been trained again or changed since"
            )
        return self.planner_folder, content

    @cached_property
    def plans(self) -> "MethodPlans":
        """What makes every method's plans."""
        from diffgraph.evaluation.methods import MethodPlans

        return MethodPlans(self.graph, self.planner, self.embedder, self.select, self.open_planner)

    def open_planner(self, planner_id: str) -> "Planner | None":
        """Return a planner of the home by its id; raises `MissingInput`."""
        folder = planner_folder(self.home, self.family_name, planner_id)
        return None if planner_id == UNTRAINED else load_planner(folder, planner_content(folder))

    def configs(self) -> dict[str, dict[str, object]]:
        """Return how experts are chosen and images sampled, for the record of a run."""
        from diffgraph.planner.selection import SelectionConfig

        return {
            "sampler": self.family.sampler.model_dump(mode="json"),
            "selection": self.overrides.of(SelectionConfig()).model_dump(mode="json"),
        }

    def select(self, prompt: str, choices: "Choices | None" = None) -> "Selection":
        """Return the experts a prompt needs, those that it names, and those that a person wants.

        Raises:
            InputError: nothing can be drawn for the prompt; a choice cannot be obeyed.
        """
        from diffgraph.planner.selection import SelectionConfig, select

        config = self.overrides.of(SelectionConfig())
        asked, proved = settled(self, prompt, choices), self.known_exclusions
        found = select(prompt, self.graph, self.agent, self.embedder, config, proved, asked)
        measured = set(self.graph.calibrated)
        unsaid = [choice.ref for choice in found.experts if choice.strength is None]
        waiting = tuple(ref for ref in unsaid if ref not in measured)
        return found.model_copy(update={"uncalibrated": waiting}) if waiting else found

    @cached_property
    def expert_names(self) -> "ExpertNames":
        """What the experts that are known here are called."""
        from diffgraph.session.naming import expert_names

        return expert_names(self.graph, self.experts)

    @cached_property
    def known_exclusions(self) -> "dict[str, str]":
        """Why some experts must not be chosen: what calibration proved, or who took them out."""
        from diffgraph.experts.library import Library
        from diffgraph.graph.exclusions import exclusions

        removed = Library(self.home).removals.among(self.graph.refs)
        return {**exclusions(self.graph), **removed}

    @property
    def experts(self) -> "KnownExperts":
        """The experts that a plan may name."""
        return loaded.experts(self.home, self.family_name)

    @packages_demanded()
    def plan(
        self,
        prompt: str,
        method: str = "diffgraph",
        experts: WantedExperts = (),
        without: Iterable[str] = (),
        only: bool = False,
    ) -> "MergePlan":
        """Return what is to be merged for a prompt.

        Args:
            prompt: what to draw.
            method: how experts are chosen and merged.
            experts: who is merged in any case, by name or reference: `["noir"]`, `["noir:0.8"]` or
                `{"noir": 0.8}`, where the number is the final coefficient.
            without: who is not merged, however well they fit.
            only: merge nobody but `experts`.

        Raises:
            InputError: there is no such method, nothing can be drawn for the prompt, or an expert
                is unknown or cannot be merged.
            SnapshotError: the graph cannot be used.
        """
        return self.decide(prompt, method, choices_of(experts, without, only)).plan

    @packages_demanded()
    def draw(  # noqa: PLR0913 (what a person may want otherwise, one argument each)
        self,
        prompt: str,
        seeds: int | Sequence[int] | None = None,
        count: int | None = None,
        plan: "GivenPlan | None" = None,
        method: str = "diffgraph",
        on_step: "OnStep | None" = None,
        experts: WantedExperts = (),
        without: Iterable[str] = (),
        only: bool = False,
        size: int | tuple[int, int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        triggers: bool | None = None,
    ) -> "list[Drawn]":
        """Draw a prompt, all its images with one plan.

        Args:
            prompt: what to draw.
            seeds: of the first noise, one an image, at least 0; by default 0, 1, … `count - 1`.
            count: how many images, where `seeds` does not say it; one by default.
            plan: what is merged, or a path of what holds it, and is sampled as that says; planned
                for the prompt by default.
            method: how experts are chosen and merged, where no plan is given.
            on_step: called after each denoising step with its number, from 1, and with how many
                there are for all images; what it raises ends the drawing.
            experts: who is merged in any case: see `plan`.
            without: who is not merged.
            only: merge nobody but `experts`.
            size: pixels across and down, or of both; by default the family's own.
            steps: of denoising; by default as the settings say.
            guidance: the classifier-free guidance scale, likewise.
            negative: what is not to be drawn.
            triggers: whether the trigger words of merged experts are added to the text; by default
                as the settings say: they are.

        Raises:
            InputError: nothing can be drawn for the prompt; a seed, the plan's file, the method, a
                chosen expert, the size or another option cannot be.
            PlanError: the plan is of another family, or cannot be carried out.
            ExpertError: an expert cannot be merged.
        """
        from diffgraph.session.drawing import Sampling, images, prepare
        from diffgraph.session.drawn import seeds_of

        numbers = seeds_of(seeds, count)
        choices = choices_of(experts, without, only)
        sampling = Sampling(steps, guidance, size, negative, triggers)
        prepared = prepare(self, prompt, plan, method, choices, sampling)
        return list(images(self, prepared, numbers, on_step))

    @packages_demanded()
    def pipeline(self, plan: "GivenPlan") -> "DiffusionPipeline":
        """Return a `DiffusionPipeline` of diffusers with a plan merged into its weights.

        It is nobody else's: what is drawn here later does not change it. With this session's
        sampler (`session.family.sampler`) and a CPU generator of the same seed it draws the same.

        Raises:
            InputError, PlanError, ExpertError: as `draw`; a plan of K-LoRA makes no one model.
        """
        from diffgraph.generation import Renderer
        from diffgraph.session.drawing import given_plan

        merged = given_plan(plan, self.family_name).plan
        model = Renderer(self.family, self.experts, self.device).merged(merged)
        return model.pipeline()

    @packages_demanded()
    def conditioning(self, plan: "GivenPlan", prompt: str) -> "dict[str, Tensor]":
        """Return what `pipeline(plan)` is called with for a prompt with weights or a negative.

        Raises:
            InputError, PlanError, ExpertError: as `pipeline`; or the prompt is too long.
        """
        from diffgraph.session.drawing import given_plan

        merged = given_plan(plan, self.family_name).plan
        return self.renderer.conditioning(merged, [prompt], self.family.sampler)

    @packages_demanded()
    def merge(
        self,
        plan: "GivenPlan",
        path: str | PathLike[str],
        layout: "FileLayout | str | None" = None,
        type: "FileType | str" = "fp16",
        rank: int | None = None,
        force: bool = False,
        on_progress: "OnProgress | None" = None,
    ) -> "MergedFile":
        """Write what a plan makes of its base as a file, or a folder, that other tools load.

        Args:
            plan: what is merged, or a path of what holds it.
            path: the .safetensors file, or the folder in the diffusers layout.
            layout: `single-file` or `diffusers`; by default what the path's name says.
            type: of the numbers: `fp16`, `bf16` or `fp32`.
            rank: write the LoRA of this rank instead that is nearest to the plan's PEFT experts.
            force: write over a file that is there, or over a folder that was written so.
            on_progress: called with the file, the numbers written and how many there are.

        Raises:
            InputError: nothing may be written at `path`.
            LicenceForbids: an expert's licence forbids derivatives.
            PlanError: the plan is of another family, or cannot be carried out.
            StorageError: the file cannot be written; nothing is left of it.
        """
        from diffgraph.session.drawing import given_plan
        from diffgraph.session.merged_files import MergeOptions, write_merged

        merged = given_plan(plan, self.family_name).plan
        settings = Settings(home=self.home)
        how = MergeOptions.of(layout, type, rank, force)
        return write_merged(merged, self.experts, settings, fspath(path), how, on_progress)

    def decide(
        self, prompt: str, method: str = "diffgraph", choices: "Choices | None" = None
    ) -> Decision:
        """Return what a method merges for a prompt.

        Raises:
            InputError: there is no such method, nothing can be drawn for the prompt, or a choice
                cannot be obeyed.
        """
        return decide(self, prompt, method, choices)
