"""What can be planned with before it is measured? The experts of the library, by their pages.

Every discover ends with this: who is new is described, and a graph is written that holds all
experts of the library, with the scores of those who have been measured. Nothing is drawn, and no
language model is asked: its answers cost money, and are `build`'s to ask for.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from diffgraph.errors import InputError, MissingInput
from diffgraph.families import get_family
from diffgraph.graph.registration import known_cards
from diffgraph.graph.schema import BASE, ExpertNode, PromptNode, scores_schema
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot, write_snapshot
from diffgraph.homes import family_folder
from diffgraph.locks import LOCKS, exclusive
from diffgraph.scoring import SCORE_NAMES, identity_of, scorers_of
from diffgraph.session.building import NOT_MEASURABLE, GraphBuilder, register
from diffgraph.session.snapshots import snapshot_in_force

if TYPE_CHECKING:
    from diffgraph.experts.card import ExpertCard
    from diffgraph.experts.expert import Expert
    from diffgraph.families.family import SamplerConfig


def register_library(home: Path, family: str, agent_name: str = "offline") -> GraphSnapshot | None:
    """Put all experts of the library into the graph in force, and return it.

    Args:
        home: where library and graph are.
        family: whose experts.
        agent_name: whose cards are used where there are any; the offline agent writes the others.

    Returns:
        The graph; None if the library holds no expert that can be merged.

    Raises:
        SnapshotError: the graph in force cannot be used.
        StorageError: the home cannot be written.
    """
    builder = GraphBuilder(home, family)
    if not any(expert.family == family for expert in builder.library.experts("ready")):
        return None
    with exclusive(home / LOCKS, "register"):
        described = _described(builder, agent_name)
        cards = [card.text for _, card in described]
        vectors, _ = builder.embeddings.embed(cards, builder.session.embedder)
        known = _Measured(family, snapshot_in_force(home, family))
        nodes = [
            ExpertNode(known.as_measured(expert), card, vector)
            for (expert, card), vector in zip(described, vectors, strict=True)
        ]
        place = family_folder(home, family)
        graph, scores = known.prompts, known.scores_of(nodes)
        how = known.how
        return open_snapshot(
            place, write_snapshot(place, family, nodes, graph, scores, *how, is_built=False)
        )


def _described(builder: GraphBuilder, agent_name: str) -> "list[tuple[Expert, ExpertCard]]":
    """Return the family's experts with their cards, once the offline agent has read the others."""
    paid: dict[str, ExpertCard | None] = {}
    if agent_name != builder.agent_name:
        with suppress(InputError):  # without its key, what it wrote is not looked for either
            asked = GraphBuilder(builder.home, builder.family, agent_name).session.agent
            cards = known_cards(builder.library, builder.family, asked, builder.cards)
            paid = {expert.ref: card for expert, card in cards}
    register(builder, [ref for ref in builder.unregistered() if paid.get(ref) is None])
    ours = known_cards(builder.library, builder.family, builder.session.agent, builder.cards)
    found = [(expert, paid.get(expert.ref) or card) for expert, card in ours]
    return [(expert, card) for expert, card in found if card is not None]


@dataclass(frozen=True)
class _Measured:
    """What the graph in force knows by measuring."""

    family: str
    graph: GraphSnapshot | None

    def as_measured(self, expert: "Expert") -> "Expert":
        """Return the expert as it may be merged: not if it could not be measured."""
        sha256, _, reason = self._facts.get(expert.ref, ("", 0.0, ""))
        if sha256 and expert.sha256 == sha256 and reason.startswith(NOT_MEASURABLE):
            return expert.model_copy(update={"status": "registered_only", "reason": reason})
        return expert

    @property
    def prompts(self) -> list[PromptNode]:
        """The reference prompts."""
        if self.graph is None:
            return []
        rows = self.graph.prompts.select(["id", "text", "seed", "features"]).to_pylist()
        return [
            PromptNode(row["id"], row["text"], row["seed"], vector, dict(row["features"]))
            for row, vector in zip(rows, self.graph.prompt_embeddings, strict=True)
        ]

    def scores_of(self, nodes: list[ExpertNode]) -> Any:
        """Return the scores of those who are as they were when they were measured."""
        if self.graph is None:
            return scores_schema(tuple(scorers_of(self.family)) or SCORE_NAMES).empty_table()
        kept = [
            node.expert.ref
            for node in nodes
            if self._facts.get(node.expert.ref, ())[:2] == (node.expert.sha256, node.strength)
        ]
        experts = pa.array([BASE, *kept], type=pa.string())
        return self.graph.scores.filter(pc.is_in(self.graph.scores["expert"], value_set=experts))

    @property
    def how(self) -> "tuple[SamplerConfig, str]":
        """How the scored images were sampled, and the identity of the scorers."""
        if self.graph is not None:
            return self.graph.manifest.sampler, self.graph.manifest.scorers
        scorers = ""
        with suppress(MissingInput):  # none is computed here: nothing is scored yet either
            scorers = identity_of(self.family)
        return get_family(self.family).sampler, scorers

    @cached_property
    def _facts(self) -> dict[str, tuple[str, float, str]]:
        columns = ["ref", "sha256", "recommended_strength", "reason"]
        rows = self.graph.nodes.select(columns).to_pylist() if self.graph else []
        return {row["ref"]: tuple(row[name] for name in columns[1:]) for row in rows}
