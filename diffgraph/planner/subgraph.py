"""Which part of the graph does one prompt need? Its experts, their scores, and the prompt itself.

The activated subgraph of DiffGraph section 3.2 (https://arxiv.org/abs/2603.20470): the chosen
experts, all reference prompts they were calibrated on, and the user's prompt as a node that is
there for one plan only. Expert and reference prompt are joined by their scores. The user's prompt
is joined to both: to a reference prompt by how alike the texts are, to an expert by what
calibration says about prompts like this one. Without those edges no message about the prompt
could reach an expert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.expert import Kind
from diffgraph.merging.plan import STRONGEST, MergePlan, Normalisation, PlannedExpert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffgraph.graph.snapshot import GraphSnapshot

EMBEDDING_WIDTH = 384
FACTS = 6  # what a node is beside its text: user, reference, checkpoint, PEFT; strength; share
NODE_WIDTH = EMBEDDING_WIDTH + FACTS
OTHER_FACTS = (
    2 + 3
)  # of an edge, behind scores and gains: likeness of the ends, of the prompt; type
RELEVANCE_TEMPERATURE = 0.1
"""How quickly a reference prompt counts less as it is less like the user's, in cosine."""


def edge_width(scores: int) -> int:
    """Return how many numbers an edge has in a graph of so many scores."""
    return 2 * scores + OTHER_FACTS


@dataclass(frozen=True)
class Subgraph:
    """One prompt's part of the graph. Nodes: the prompt, the reference prompts, the experts."""

    family: str
    prompt: str
    refs: tuple[str, ...]
    kinds: tuple[Kind, ...]
    sha256s: tuple[str, ...]
    strengths: Tensor  # (experts,), as their cards recommend
    nodes: Tensor  # (1 + prompts + experts, NODE_WIDTH)
    edge_index: Tensor  # (2, edges), both directions of each edge
    edges: Tensor  # (edges, edge_width(scores))
    weights: Tensor  # (edges,), how much a message counts

    def plan(self, coefficients: Sequence[float], normalisation: Normalisation) -> MergePlan:
        """Return the plan that gives these coefficients, in [0, 1], to the experts in order."""
        return MergePlan(
            family=self.family,
            experts=tuple(
                PlannedExpert(ref=ref, kind=kind, coefficient=float(value), sha256=sha256)
                for ref, kind, sha256, value in zip(
                    self.refs, self.kinds, self.sha256s, coefficients, strict=True
                )
            ),
            normalisation=normalisation,
        )


@dataclass(frozen=True)
class Batch:
    """Several subgraphs side by side in one, without edges between them."""

    nodes: Tensor  # (nodes, NODE_WIDTH)
    edge_index: Tensor  # (2, edges)
    edges: Tensor  # (edges, edge_width(scores))
    weights: Tensor  # (edges,)
    users: Tensor  # (graphs,), the row of each user's prompt
    experts: Tensor  # (experts,), the row of each expert
    owners: Tensor  # (experts,), which graph each expert belongs to
    strengths: Tensor  # (experts,)
    is_checkpoint: Tensor  # (experts,), bool


def activate(
    snapshot: "GraphSnapshot",
    refs: Sequence[str],
    prompt_embedding: "NDArray[np.float32]",
    prompt: str = "",
    scores: Sequence[str] | None = None,
) -> Subgraph:
    """Return the subgraph of a prompt and the experts chosen for it.

    Args:
        snapshot: the graph.
        refs: the chosen experts; none is fine.
        prompt_embedding: (384,), a unit vector, from the embedder that the graph was made with.
        prompt: the text, for the record.
        scores: those that whoever reads the edges knows, in its order; all of the graph's if unset.

    Raises:
        MissingInput: the graph lacks one of the scores.
        SnapshotError: an expert is not a mergeable expert of the snapshot.
    """
    rows = snapshot.index(refs)
    kinds = tuple(snapshot.kinds[row] for row in rows)
    user = torch.as_tensor(prompt_embedding, dtype=torch.float32).reshape(1, EMBEDDING_WIDTH)
    references = torch.from_numpy(snapshot.prompt_embeddings)
    experts = torch.from_numpy(snapshot.embeddings[rows])
    strengths = torch.from_numpy(snapshot.strengths[rows])
    known = _columns(snapshot, snapshot.score_names if scores is None else scores)
    features = torch.from_numpy(snapshot.edge_features(refs))[..., known]
    gains = torch.from_numpy(snapshot.edge_gains(refs))[..., known]
    edge_index, edges, weights = _edges(
        user, references, experts, torch.cat([features, gains], dim=2)
    )
    return Subgraph(
        family=snapshot.family,
        prompt=prompt,
        refs=tuple(refs),
        kinds=kinds,
        sha256s=tuple(snapshot.sha256s[row] for row in rows),
        strengths=strengths,
        nodes=_nodes(user, references, experts, kinds, strengths),
        edge_index=edge_index,
        edges=edges,
        weights=weights,
    )


def _columns(snapshot: "GraphSnapshot", scores: Sequence[str]) -> list[int]:
    """Return where these scores stand on the edges of a graph."""
    if missing := [name for name in scores if name not in snapshot.score_names]:
        raise MissingInput(
            f"the planner reads the scores {', '.join(missing)}, which snapshot {snapshot.id} does "
            "not hold: train one on it with `diffgraph train`"
        )
    return [snapshot.score_names.index(name) for name in scores]


def collate(subgraphs: Sequence[Subgraph]) -> Batch:
    """Return subgraphs side by side, so that one forward pass plans them all."""
    sizes = [len(graph.nodes) for graph in subgraphs]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    experts = [
        torch.arange(start + size - len(graph.refs), start + size)
        for graph, start, size in zip(subgraphs, starts, sizes, strict=True)
    ]
    return Batch(
        nodes=torch.cat([graph.nodes for graph in subgraphs]),
        edge_index=torch.cat(
            [graph.edge_index + start for graph, start in zip(subgraphs, starts, strict=True)],
            dim=1,
        ),
        edges=torch.cat([graph.edges for graph in subgraphs]),
        weights=torch.cat([graph.weights for graph in subgraphs]),
        users=torch.tensor(starts, dtype=torch.long),
        experts=torch.cat(experts),
        owners=torch.cat(
            [torch.full((len(rows),), graph) for graph, rows in enumerate(experts)]
        ).long(),
        strengths=torch.cat([graph.strengths for graph in subgraphs]),
        is_checkpoint=torch.tensor(
            [kind == "checkpoint" for graph in subgraphs for kind in graph.kinds], dtype=torch.bool
        ),
    )


def _nodes(
    user: Tensor, references: Tensor, experts: Tensor, kinds: Sequence[Kind], strengths: Tensor
) -> Tensor:
    """Return node features: the text's embedding, what the node is, and an expert's own facts."""
    facts = torch.zeros(1 + len(references) + len(experts), FACTS)
    facts[0, 0] = 1.0
    facts[1 : 1 + len(references), 1] = 1.0
    for place, kind in enumerate(kinds, start=1 + len(references)):
        facts[place, 2 if kind == "checkpoint" else 3] = 1.0
        facts[place, 5] = 1.0 / kinds.count(kind)
    facts[1 + len(references) :, 4] = strengths / STRONGEST
    # unit vectors of 384 numbers are tiny each: bring them to the size of the other features
    texts = torch.cat([user, references, experts]) * EMBEDDING_WIDTH**0.5
    return torch.cat([texts, facts], dim=1)


def _edges(
    user: Tensor, references: Tensor, experts: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return edge indices, features and weights, both directions of each edge.

    Args:
        user: (1, 384).
        references: (prompts, 384).
        experts: (experts, 384).
        scores: (experts, prompts, 2 scores), standardised scores, then gains.
    """
    both = scores.shape[2]
    width = both + OTHER_FACTS
    likeness = (references @ user.T).flatten()  # (prompts,)
    relevance = torch.softmax(likeness / RELEVANCE_TEMPERATURE, dim=0)
    n_references, n_experts = len(references), len(experts)
    columns = torch.arange(1, 1 + n_references)
    rows = torch.arange(1 + n_references, 1 + n_references + n_experts)

    scored = torch.zeros(n_experts, n_references, width)
    scored[..., :both] = scores
    scored[..., both] = experts @ references.T
    scored[..., both + 1] = likeness
    scored[..., -3] = 1.0
    alike = torch.zeros(n_references, width)
    alike[:, both] = likeness
    alike[:, both + 1] = likeness
    alike[:, -2] = 1.0
    asked = torch.zeros(n_experts, width)
    # what the expert scored on prompts like the user's: the nearer, the more a prompt counts
    asked[:, :both] = torch.einsum("p,eps->es", relevance, scores)
    asked[:, both] = (experts @ user.T).flatten()
    asked[:, both + 1] = 1.0
    asked[:, -1] = 1.0

    sources = torch.cat(
        [rows.repeat_interleave(n_references), columns, rows],
    )
    targets = torch.cat(
        [columns.repeat(n_experts), torch.zeros_like(columns), torch.zeros_like(rows)]
    )
    features = torch.cat([scored.reshape(-1, width), alike, asked])
    # all reference prompts together weigh as much as the user's prompt, however many they are
    weights = torch.cat([relevance.repeat(n_experts), relevance, torch.ones(n_experts)])
    there_and_back = torch.stack([torch.cat([sources, targets]), torch.cat([targets, sources])])
    return there_and_back, features.repeat(2, 1), weights.repeat(2)
