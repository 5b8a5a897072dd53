"""A subgraph holds the prompt, its experts and all reference prompts, joined by what is known."""

import numpy as np
import pytest
import torch

from diffgraph.errors import SnapshotError
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.planner.subgraph import NODE_WIDTH, activate, collate, edge_width


def prompt_embedding(seed: int = 3) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=384)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_has_a_node_each_and_edges_both_ways(small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs[1:4]
    graph = activate(small_snapshot, refs, prompt_embedding(), "a cat")
    assert graph.nodes.shape == (1 + 5 + 3, NODE_WIDTH)
    assert graph.edges.shape == (2 * (3 * 5 + 5 + 3), edge_width(5))
    there = set(map(tuple, graph.edge_index.T.tolist()))
    assert there == {(b, a) for a, b in there}
    assert {(0, node) for node in range(1, 9)} <= there  # the prompt reaches everything
    assert (6, 1) in there
    assert (6, 7) not in there  # experts meet at reference prompts only
    assert graph.kinds == ("checkpoint", "peft", "peft")
    assert graph.sha256s[0] == small_snapshot.sha256s[1]


def test_an_edge_carries_the_scores_and_gains_of_its_expert(small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs[2:4]
    graph = activate(small_snapshot, refs, prompt_embedding())
    pairs = graph.edge_index.T.tolist()
    edge = graph.edges[pairs.index([1 + 5 + 1, 1 + 3])]  # second expert, fourth reference prompt
    expected = np.concatenate(
        [small_snapshot.edge_features(refs)[1, 3], small_snapshot.edge_gains(refs)[1, 3]]
    )
    np.testing.assert_allclose(edge[:10].numpy(), expected, rtol=1e-6)


def test_near_reference_prompts_say_most_about_an_expert(small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs[:1]
    graph = activate(small_snapshot, refs, small_snapshot.prompt_embeddings[2])
    asked = graph.edges[graph.edge_index.T.tolist().index([6, 0])]
    near = torch.from_numpy(small_snapshot.edge_features(refs)[0, 2])
    torch.testing.assert_close(asked[:5], near, atol=0.01, rtol=0.01)


def test_strengths_and_shares_are_node_features(small_snapshot: GraphSnapshot) -> None:
    graph = activate(small_snapshot, small_snapshot.refs[1:4], prompt_embedding())
    kind_strength_share = graph.nodes[6:, -4:]
    torch.testing.assert_close(
        kind_strength_share,
        torch.tensor([[1, 0, 1.0 / 1.5, 1], [0, 1, 0.6 / 1.5, 0.5], [0, 1, 0.9 / 1.5, 0.5]]),
    )


def test_collate_keeps_graphs_apart(small_snapshot: GraphSnapshot) -> None:
    graphs = [
        activate(small_snapshot, small_snapshot.refs[start:], prompt_embedding(start))
        for start in (0, 3, 5)
    ]
    batch = collate(graphs)
    assert batch.users.tolist() == [0, 12, 21]
    assert batch.owners.tolist() == [0] * 6 + [1] * 3 + [2]
    for graph, start in zip(graphs, batch.users.tolist(), strict=True):
        size = len(graph.nodes)
        inside = (batch.edge_index[0] >= start) & (batch.edge_index[0] < start + size)
        assert torch.equal(batch.edge_index[:, inside] - start, graph.edge_index)
    assert torch.equal(batch.nodes[batch.experts[-1]], graphs[2].nodes[-1])


def test_an_expert_that_cannot_be_merged_is_refused(small_snapshot: GraphSnapshot) -> None:
    with pytest.raises(SnapshotError, match="folder:nobody@1"):
        activate(small_snapshot, ["folder:nobody@1"], prompt_embedding())
