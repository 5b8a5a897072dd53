"""What does a process keep at hand? The models, loaded once, and the graph and planner in force.

Without a snapshot or planner of its own, a home uses those that ship with the family. No Prefect
here: the commands that serve a person use it too.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffgraph.artifacts import sha256_of
from diffgraph.errors import InputError, MissingInput, SnapshotError
from diffgraph.families import Family, get_family
from diffgraph.settings import Settings

if TYPE_CHECKING:
    from diffgraph.agents import Agent
    from diffgraph.generation import Renderer
    from diffgraph.graph.embedding import TextEmbedder
    from diffgraph.graph.snapshot import GraphSnapshot
    from diffgraph.merging.plan import MergePlan
    from diffgraph.planner.planner import Planner
    from diffgraph.planner.selection import Selection
    from diffgraph.scoring import Scorer

CHAMPION = "champion"
"""The file in `planners/` that names the planner in force."""

PLANNED = {"diffgraph": None, "diffgraph_softmax": "softmax"}
"""The methods that ask our planner, with the normalisation if not its own."""


class Decision(NamedTuple):
    """What is to be merged for a prompt, and why."""

    selection: "Selection"
    plan: "MergePlan"


@dataclass(frozen=True)
class Studio:
    """All that is needed to turn a prompt into a plan, an image, and scores."""

    home: Path
    family_name: str
    device: str = "auto"
    agent_name: str = "offline"
    snapshot_id: str | None = None
    planner_folder: Path | None = None

    @classmethod
    def of(
        cls, settings: Settings, snapshot: str | None = None, planner: Path | None = None
    ) -> "Studio":
        """Return the studio that the settings describe."""
        return cls(
            settings.home, settings.family, settings.device, settings.agent, snapshot, planner
        )

    @property
    def family(self) -> Family:
        """The model family."""
        return get_family(self.family_name)

    @property
    def renderer(self) -> "Renderer":
        """What draws plans; the base model stays loaded."""
        return _renderer(self.home, self.family_name, self.device)

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
        return _agent(self.agent_name, self.family_name)

    @cached_property
    def snapshot(self) -> "GraphSnapshot":
        """The graph in force: the home's, or else the one that ships with the family."""
        from diffgraph.graph.snapshot import current_id, open_snapshot

        bundled = self.family.assets and self.family.assets / "snapshot"
        wanted = self.snapshot_id
        if wanted is None:
            own = current_id(self.home)
        else:
            own = wanted if (self.home / "snapshots" / wanted).is_dir() else None
        if own is not None:
            found = open_snapshot(self.home, own)
        elif bundled and bundled.is_dir():
            found = open_snapshot(bundled, wanted)
        else:
            raise SnapshotError(f"{self.home} holds no snapshot yet: run `diffgraph build` first")
        if found.family != self.family_name:
            raise SnapshotError(
                f"snapshot {found.id} is of family {found.family}, not {self.family_name}"
            )
        return found

    @cached_property
    def planner(self) -> "Planner":
        """The planner in force: the home's champion, or else the one that ships."""
        from diffgraph.planner.planner import Planner

        return Planner.load(self.planner_folder or champion_folder(self.home, self.family_name))

    @cached_property
    def planner_id(self) -> str:
        """The content hash of the planner in force."""
        folder = self.planner_folder or champion_folder(self.home, self.family_name)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        return sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()[:16]

    def decide(self, prompt: str, method: str = "diffgraph") -> Decision:
        """Return what a method merges for a prompt.

        Raises:
            InputError: there is no such method, or nothing can be drawn for the prompt.
        """
        if method not in (known := methods()):
            raise InputError(f"no method is called {method!r}: there is {', '.join(known)}")
        selection = self.select(prompt)
        return Decision(selection, self.plan_of(selection, method))

    def select(self, prompt: str) -> "Selection":
        """Return the experts a prompt needs."""
        from diffgraph.planner.selection import select

        return select(prompt, self.snapshot, self.agent, self.embedder)

    def plan_of(self, selection: "Selection", method: str) -> "MergePlan":
        """Return what a method does with a selection."""
        from diffgraph.baselines import BASELINES

        if method not in PLANNED:
            return BASELINES[method].plan(selection, self.snapshot)
        embedding = self.embedder.embed([selection.prompt])[0]
        return self.planner.plan(self.snapshot, selection, embedding, PLANNED[method])


def methods() -> tuple[str, ...]:
    """Return the methods that can be asked for, ours last."""
    from diffgraph.baselines import BASELINES

    return (*(name for name in BASELINES if name not in PLANNED), *reversed(PLANNED))


def champion_folder(home: Path, family: str) -> Path:
    """Return the folder of the planner in force."""
    pointer = home / "planners" / CHAMPION
    if pointer.is_file():
        return home / "planners" / pointer.read_text(encoding="utf-8").strip()
    assets = get_family(family).assets
    if assets is None or not (assets / "planner").is_dir():
        raise MissingInput(f"{home} holds no planner yet: run `diffgraph train` first")
    return assets / "planner"


# Loading a model takes seconds: a process does it once, and only for the family it works on.


@lru_cache(maxsize=1)
def _renderer(home: Path, family: str, device: str) -> "Renderer":
    from diffgraph.experts.library import Library
    from diffgraph.generation import Renderer

    return Renderer(get_family(family), Library(home), device)


@lru_cache(maxsize=1)
def _scorers(family: str, device: str) -> "dict[str, Scorer]":
    from diffgraph.scoring import get_scorers

    return get_scorers(family, device)


@lru_cache(maxsize=1)
def _embedder() -> "TextEmbedder":
    from diffgraph.graph.embedding import TextEmbedder

    return TextEmbedder()


@lru_cache(maxsize=4)
def _agent(name: str, family: str) -> "Agent":
    from diffgraph.agents import get_agent

    known_words = get_family(family).known_words
    return get_agent(name, known_words() if known_words else None)
