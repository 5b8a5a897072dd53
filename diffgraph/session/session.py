"""What does a process keep at hand? The models, loaded once, and the graph and planner in force.

Without a snapshot or planner of its own, a home uses those that ship with the family. No Prefect
here: the commands that serve a person use it too.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffgraph.errors import InputError, MissingInput
from diffgraph.families import Family, get_family
from diffgraph.session.overrides import NO_OVERRIDES, Overrides, read_overrides
from diffgraph.session.planners import (
    load_planner,
    planner_content,
    planner_folder,
    planner_in_force,
)
from diffgraph.settings import Settings

if TYPE_CHECKING:
    from diffgraph.agents import Agent
    from diffgraph.evaluation.methods import MethodPlans
    from diffgraph.families.family import SamplerConfig
    from diffgraph.generation import Renderer
    from diffgraph.graph.embedding import TextEmbedder
    from diffgraph.graph.snapshot import GraphSnapshot
    from diffgraph.merging.plan import MergePlan
    from diffgraph.planner.planner import Planner
    from diffgraph.planner.selection import Selection
    from diffgraph.scoring import Scorer


class Decision(NamedTuple):
    """What is to be merged for a prompt, and why."""

    selection: "Selection"
    plan: "MergePlan"


@dataclass(frozen=True)
class Session:
    """All that is needed to turn a prompt into a plan, an image, and scores."""

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
            snapshot_id=self.snapshot.id,
            planner_folder=folder,
            planner_content=content,
        )

    @property
    def family(self) -> Family:
        """The model family, sampled as the settings say."""
        family = get_family(self.family_name)
        return replace(family, sampler=self.overrides.of(family.sampler))

    @property
    def renderer(self) -> "Renderer":
        """What draws plans; the base model stays loaded."""
        return _renderer(self.home, self.family_name, self.device, self.family.sampler)

    @property
    def scorers(self) -> "dict[str, Scorer]":
        """The five scorers."""
        return _scorers(self.family_name, str(self.renderer.device))

    @property
    def embedder(self) -> "TextEmbedder":
        """What places texts among others."""
        return _embedder()

    @property
    def agent(self) -> "Agent":
        """Who reads pages and prompts."""
        return _agent(self.agent_name, self.family_name, self.home)

    @cached_property
    def snapshot(self) -> "GraphSnapshot":
        """The graph in force: the home's, or else the one that ships with the family."""
        from diffgraph.session.snapshots import find_snapshot

        return find_snapshot(self.home, self.family_name, self.snapshot_id)

    @property
    def planner(self) -> "Planner":
        """The planner in force: the home's champion, or else the one that ships."""
        folder, content = self.planner_used
        return load_planner(folder, content)

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

        return MethodPlans(
            self.snapshot, self.planner, self.embedder, self.select, self.open_planner
        )

    def open_planner(self, planner_id: str) -> "Planner":
        """Return a planner of the home by its id; raises `MissingInput`."""
        folder = planner_folder(self.home, self.family_name, planner_id)
        return load_planner(folder, planner_content(folder))

    def configs(self) -> dict[str, dict[str, object]]:
        """Return how experts are chosen and images sampled, for the record of a run."""
        from diffgraph.planner.selection import SelectionConfig

        return {
            "sampler": self.family.sampler.model_dump(mode="json"),
            "selection": self.overrides.of(SelectionConfig()).model_dump(mode="json"),
        }

    def select(self, prompt: str) -> "Selection":
        """Return the experts a prompt needs."""
        from diffgraph.planner.selection import SelectionConfig, select

        config = self.overrides.of(SelectionConfig())
        return select(
            prompt, self.snapshot, self.agent, self.embedder, config, self.known_drawbacks
        )

    @cached_property
    def known_drawbacks(self) -> "dict[str, str]":
        """Why some experts must not be chosen: what calibration proved, or who took them out."""
        from diffgraph.experts.library import Library
        from diffgraph.graph.drawbacks import drawbacks

        removed = Library(self.home).removed_among(self.snapshot.refs)
        return {**drawbacks(self.snapshot), **removed}

    def decide(self, prompt: str, method: str = "diffgraph") -> Decision:
        """Return what a method merges for a prompt.

        Raises:
            InputError: there is no such method, or nothing can be drawn for the prompt.
        """
        from diffgraph.evaluation.prompt_sets import EvaluationPrompt

        check_method(method)
        plan = self.plans(method, EvaluationPrompt(id="", text=prompt))[0]
        return Decision(self.plans.selection(prompt), plan)


def check_method(name: str) -> None:
    """Raise `InputError` unless there is a method of this name that gives one plan a prompt."""
    from diffgraph.baselines import BASELINES
    from diffgraph.evaluation.methods import PLANNED

    known = (*BASELINES, *PLANNED)
    if name not in known:
        raise InputError(f"no method is called {name!r}: there is {', '.join(known)}")


# Loading a model takes seconds: a process does it once, and only for the family it works on.


@lru_cache(maxsize=1)
def _renderer(home: Path, name: str, device: str, sampler: "SamplerConfig") -> "Renderer":
    from diffgraph.generation import Renderer
    from diffgraph.session.known_experts import KnownExperts

    family = replace(get_family(name), sampler=sampler)
    return Renderer(family, KnownExperts(home, family), device)


@lru_cache(maxsize=1)
def _scorers(family: str, device: str) -> "dict[str, Scorer]":
    from diffgraph.scoring import get_scorers

    return get_scorers(family, device)


@lru_cache(maxsize=1)
def _embedder() -> "TextEmbedder":
    from diffgraph.graph.embedding import TextEmbedder

    return TextEmbedder()


@lru_cache(maxsize=4)
def _agent(name: str, family: str, home: Path) -> "Agent":
    from diffgraph.session.agents import make_agent

    return make_agent(name, family, home)
