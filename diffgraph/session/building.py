"""How does a library become a graph? Experts are described, measured, and written down."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from diffgraph.agents.spending import Spending
from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.experts.library import Library
from diffgraph.graph.calibration import Calibrated, CalibrationConfig, Shard, calibrate, shards
from diffgraph.graph.calibration import parts as parts_of
from diffgraph.graph.contents import read_parts
from diffgraph.graph.embedding_store import EmbeddingStore
from diffgraph.graph.in_force import mend, open_in_force
from diffgraph.graph.reference_prompts import ReferencePrompt, choose
from diffgraph.graph.registration import STATUSES, Cards, known_cards, register_all
from diffgraph.graph.schema import ExpertNode, PromptNode
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot, write_snapshot
from diffgraph.homes import family_folder
from diffgraph.progress import go_on, report
from diffgraph.results import Result, Rows, rows
from diffgraph.scoring import identity_of, scorers_of
from diffgraph.session.session import Session

if TYPE_CHECKING:
    from diffgraph.experts.card import ExpertCard
    from diffgraph.experts.expert import Expert

log = logging.getLogger(__name__)

TESTED = ("train", "bench", "freeform")
"""The bundled sets whose prompts must not be reference prompts too."""


NOT_MEASURABLE = "could not be measured: "
"""How the reason begins of an expert that a build failed to calibrate: it is known, not merged."""


class BuildResult(Result):
    """A snapshot, what changed since the one before, and what it took."""

    snapshot: str
    parent: str | None
    mergeable: int
    experts: int
    prompts: int
    new: tuple[str, ...]
    updated: tuple[str, ...]
    retired: tuple[str, ...]
    uncalibrated: tuple[str, ...]
    images: int
    """Images drawn and scored now; what was known already was not drawn again."""
    failed: dict[str, str]
    """Expert → why it could not be measured."""
    config: CalibrationConfig
    """How experts were measured."""
    asked: int
    """Pages that the agent had to read."""
    embedded: int
    """Cards that had to be placed among the others."""
    spending: Spending
    """What the answers of a language model took."""

    @classmethod
    def of(cls, before: GraphSnapshot | None, after: GraphSnapshot, **took: Any) -> "BuildResult":
        """Return what a snapshot changed, and what it took: the other fields, by name."""
        change, manifest = after.difference(before), after.manifest
        return cls(
            snapshot=after.id,
            parent=before.id if before and before.id != after.id else manifest.parent,
            mergeable=len(after.refs),
            experts=manifest.experts,
            new=change.new,
            updated=change.updated,
            retired=change.retired,
            uncalibrated=manifest.uncalibrated,
            **took,
        )

    def lines(self) -> Iterator[str | Rows]:
        """Yield the main figures first."""
        yield (
            f"snapshot {self.snapshot}: {self.mergeable} experts can be merged, "
            f"{self.experts - self.mergeable} only known, {self.prompts} reference prompts"
        )
        yield (
            f"{len(self.new)} new, {len(self.updated)} updated, {len(self.retired)} retired; "
            f"{self.images} images drawn and scored"
        )
        if self.asked or self.embedded:
            yield f"{self.asked} pages read, {self.embedded} cards placed"
        if self.spending.answers:
            yield self.spending.line()
        if self.failed:
            yield rows(("expert", "reason"), sorted(self.failed.items()))


class Registered(NamedTuple):
    """What it took to register some experts."""

    asked: int
    embedded: int


@dataclass(frozen=True)
class GraphBuilder:
    """A home that is opened once to build a family's graph; another process opens it again."""

    home: Path
    family: str
    agent_name: str = "offline"

    def __reduce__(self) -> tuple[type["GraphBuilder"], tuple[object, ...]]:
        """Travel without what is open."""
        return GraphBuilder, tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def library(self) -> Library:
        """The experts' rows and pages."""
        return Library(self.home)

    @cached_property
    def cards(self) -> Cards:
        """What agents wrote of pages."""
        return Cards(self.home / "cards")

    @cached_property
    def embeddings(self) -> EmbeddingStore:
        """The vectors of cards and prompts."""
        return EmbeddingStore(self.home / "embeddings")

    @cached_property
    def session(self) -> Session:
        """Who reads pages, and what embeds texts."""
        return Session(self.home, self.family, agent_name=self.agent_name)

    @cached_property
    def described(self) -> "list[tuple[Expert, ExpertCard]]":
        """The experts of the graph with their cards, as registration left them."""
        known = known_cards(self.library, self.family, self.session.agent, self.cards)
        late = [expert.ref for expert, card in known if card is None]
        if late:
            log.warning("no card yet, so left for the next build: %s", ", ".join(sorted(late)))
        return [(expert, card) for expert, card in known if card is not None]

    @property
    def is_outdated(self) -> bool:
        """Whether the library has experts by now that are not among the described."""
        known = {expert.ref for expert, _ in self.described}
        now = (expert for expert in self.library.experts(STATUSES) if expert.family == self.family)
        return any(expert.ref not in known for expert in now)

    def demand_experts(self) -> None:
        """Raise `SnapshotError` unless the library holds an expert of the family."""
        known = self.library.experts(("ready", "registered_only"))
        if not any(expert.family == self.family for expert in known):
            raise SnapshotError(
                f"the library in {self.home} holds no expert of {self.family}: "
                "run `diffgraph discover`"
            )

    def unregistered(self) -> list[str]:
        """Return the experts that have no card of this agent yet, or whose card has no place."""
        known = known_cards(self.library, self.family, self.session.agent, self.cards)
        return [
            expert.ref for expert, card in known if card is None or card.text not in self.embeddings
        ]

    def shards(
        self, prompts: Sequence[ReferencePrompt], config: CalibrationConfig, only_missing: bool
    ) -> list[Shard]:
        """Share the work out: every ready expert and the base on every prompt."""
        experts = [
            (expert, ExpertNode(expert, card).strength)
            for expert, card in self.described
            if expert.status == "ready" and expert.sha256
        ]
        return shards(
            self.family,
            experts,
            prompts,
            config,
            identity_of(self.family),
            scores_folder(self.home) if only_missing else None,
            tuple(scorers_of(self.family)),
        )


def register(builder: GraphBuilder, refs: list[str], part: str = "") -> Registered:
    """Have the agent describe experts, and place their cards; what is known is not done again."""
    library, total = builder.library, len(refs)
    cards, asked = register_all(
        [library.get(ref) for ref in refs],
        library,
        builder.session.agent,
        builder.cards,
        lambda done, name: report("register", done, total, name),
    )
    _, embedded = builder.embeddings.embed(
        [card.text for card in cards],
        builder.session.embedder,
        lambda done: report("embed", done, total, part),
    )
    return Registered(asked, embedded)


def choose_reference_prompts(
    family: str, count: int, candidates: Path | None = None, exclude: Sequence[Path] = ()
) -> list[ReferencePrompt]:
    """Choose the prompts that experts are measured on.

    Args:
        family: whose bundled candidates are used, or general ones if it has none, and whose train
            and test sets are left out.
        count: how many are wanted.
        candidates: a JSONL or Parquet file to choose from instead of the bundled set.
        exclude: files of prompts that must not be chosen, besides the bundled ones.
    """
    from diffgraph.evaluation.prompt_sets import bundled_sets
    from diffgraph.graph.candidates import GENERAL, stream_candidates

    bundled = bundled_sets(family)
    tested = [bundled[name] for name in TESTED if name in bundled]
    offered = candidates or bundled.get("reference", GENERAL)
    return choose(
        stream_candidates(offered),
        count,
        exclude=[text for path in (*tested, *exclude) for text in stream_candidates(path)],
        embedder=Session(Path(), family).embedder,
    )


def calibrate_shard(shard: Shard, home: Path, device: str) -> Calibrated:
    """Draw and score a few experts; what is there already is not drawn again.

    Raises:
        MissingInput: the scorers here are not those that the shard names its scores after.
    """
    if (found := identity_of(shard.family, shard.scores)) != shard.scorers:
        raise MissingInput(f"the scorers of {shard.family} are {found} here, not {shard.scorers}")
    session = Session(home, shard.family, device)
    scorers = session.scorers_of(shard.scores)
    return calibrate(shard, session.renderer, scorers, scores_folder(home), lambda _: go_on())


def write(
    builder: GraphBuilder,
    prompts: list[ReferencePrompt],
    config: CalibrationConfig,
    failed: Mapping[str, str] = MappingProxyType({}),
    is_whole: bool = True,
) -> tuple[GraphSnapshot | None, GraphSnapshot]:
    """Write experts, cards and scores as a snapshot, the current one; return the one before too.

    Args:
        builder: the home.
        prompts: what experts were measured on.
        config: how they were.
        failed: why some could not be; they are known from now on, and not merged.
        is_whole: whether all were; else the graph is in force until the next one is.
    """
    work = builder.shards(prompts, config, only_missing=False)
    places, embedder = builder.embeddings, builder.session.embedder
    vectors, _ = places.embed([card.text for _, card in builder.described], embedder)
    embedded, _ = places.embed([prompt.text for prompt in prompts], embedder)
    place = family_folder(builder.home, builder.family)
    before = mend(place)
    snapshot_id = write_snapshot(
        place,
        builder.family,
        [
            ExpertNode(_as_measured(expert, failed), card, vector)
            for (expert, card), vector in zip(builder.described, vectors, strict=True)
        ],
        [
            PromptNode(prompt.id, prompt.text, prompt.seed, vector, prompt.features)
            for prompt, vector in zip(prompts, embedded, strict=True)
        ],
        read_parts(parts_of(work, scores_folder(builder.home)), work[0].scores),
        config.sampler,
        work[0].scorers,
        is_built=is_whole,
    )
    return before, open_snapshot(place, snapshot_id)


def write_interim(
    builder: GraphBuilder,
    prompts: list[ReferencePrompt],
    config: CalibrationConfig,
    failed: Mapping[str, str],
) -> None:
    """Put in force what a build has measured so far, if it is more than was measured before."""
    measured = parts_of(
        builder.shards(prompts, config, only_missing=False), scores_folder(builder.home)
    )
    before = open_in_force(family_folder(builder.home, builder.family))
    if len(measured) - 1 > (len(before.calibrated) if before else 0):  # the base is one of them
        write(builder, prompts, config, failed, is_whole=False)


def _as_measured(expert: "Expert", failed: Mapping[str, str]) -> "Expert":
    if expert.ref not in failed:
        return expert
    reason = f"{NOT_MEASURABLE}{failed[expert.ref]}"
    return expert.model_copy(update={"status": "registered_only", "reason": reason})


def scores_folder(home: Path) -> Path:
    """Return where scores are kept, a file an expert."""
    return home / "scores"
