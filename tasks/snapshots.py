"""Writing down what is known, as one immutable graph."""

from pathlib import Path

from pydantic import BaseModel

from diffgraph.families.family import SamplerConfig
from diffgraph.graph.calibration import Shard
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.session import Session
from tasks.calibration import scores_folder
from tasks.policies import LOCAL, task


class SnapshotChanges(BaseModel, frozen=True):
    """A snapshot, and what changed since the one before it."""

    snapshot: str
    parent: str | None
    mergeable: int
    experts: int
    prompts: int
    new: tuple[str, ...]
    updated: tuple[str, ...]
    retired: tuple[str, ...]
    uncalibrated: tuple[str, ...]


@task(**LOCAL)
def write(
    home: Path,
    family: str,
    agent: str,
    prompts: list[ReferencePrompt],
    work: list[Shard],
    sampler: SamplerConfig,
) -> SnapshotChanges:
    """Write experts, cards and scores as a snapshot, and make it the current one."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.calibration import parts
    from diffgraph.graph.contents import read_parts
    from diffgraph.graph.embedding_store import EmbeddingStore
    from diffgraph.graph.in_force import mend
    from diffgraph.graph.registration import Cards, described
    from diffgraph.graph.schema import ExpertNode, PromptNode
    from diffgraph.graph.snapshot import open_snapshot, write_snapshot
    from diffgraph.homes import family_folder

    session = Session(home, family, agent_name=agent)
    experts, cards = described(
        Library(home), family, session.agent, Cards(home / "cards"), ("ready", "registered_only")
    )
    places = EmbeddingStore(home / "embeddings")
    vectors, _ = places.embed([card.text for card in cards], session.embedder)
    embedded, _ = places.embed([prompt.text for prompt in prompts], session.embedder)
    place = family_folder(home, family)
    before = mend(place)
    parent = before.id if before else None
    snapshot_id = write_snapshot(
        place,
        family,
        [
            ExpertNode(expert, card, vector)
            for expert, card, vector in zip(experts, cards, vectors, strict=True)
        ],
        [
            PromptNode(prompt.id, prompt.text, prompt.seed, vector, prompt.features)
            for prompt, vector in zip(prompts, embedded, strict=True)
        ],
        read_parts(parts(work, scores_folder(home)), work[0].scores),
        sampler,
        work[0].scorers,
    )
    after = open_snapshot(place, snapshot_id)
    change = after.difference(before)
    return SnapshotChanges(
        snapshot=snapshot_id,
        parent=parent if parent != snapshot_id else after.manifest.parent,
        mergeable=len(after.refs),
        experts=after.manifest.experts,
        prompts=len(prompts),
        new=change.new,
        updated=change.updated,
        retired=change.retired,
        uncalibrated=after.manifest.uncalibrated,
    )
