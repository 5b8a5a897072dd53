"""The network is a GCN on edges, plans one-peaked Betas, and starts at recommended strengths."""

import numpy as np
import pytest
import torch

from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.merging.plan import STRONGEST
from diffgraph.planner.subgraph import Batch, Subgraph, activate, collate, edge_width
from diffgraph.planner.vgae import VGAE, EdgeGraphConv, VGAEConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph_of(snapshot: GraphSnapshot, start: int, seed: int = 3) -> Subgraph:
    vector = np.random.default_rng(seed).normal(size=384)
    embedding = (vector / np.linalg.norm(vector)).astype(np.float32)
    return activate(snapshot, snapshot.refs[start:], embedding, "a prompt")


def shaken(config: VGAEConfig | None = None) -> VGAE:
    """Return a network none of whose weights is at its initial zero."""
    network = VGAE(config or VGAEConfig(), generator())
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator(1))
    return network


@pytest.fixture
def batch(small_snapshot: GraphSnapshot) -> Batch:
    return collate([graph_of(small_snapshot, start) for start in (0, 2, 5)])


def test_without_edge_features_it_is_exactly_a_gcn(batch: Batch) -> None:
    """Independent oracle: torch_geometric's own GCNConv with the same weights."""
    geometric = pytest.importorskip("torch_geometric.nn")
    ours = EdgeGraphConv(batch.nodes.shape[1], 8, batch.edges.shape[1])
    ours.reset(generator())
    ours.bias.data.normal_(generator=generator())
    theirs = geometric.GCNConv(batch.nodes.shape[1], 8)
    theirs.load_state_dict({"bias": ours.bias, "lin.weight": ours.lin.weight})
    torch.testing.assert_close(
        ours(batch.nodes, batch.edge_index, batch.edges, batch.weights),
        theirs(batch.nodes, batch.edge_index, batch.weights),
    )


def test_edge_features_gate_and_shift_messages_as_pyg_passes_them(batch: Batch) -> None:
    """Independent oracle: torch_geometric's MessagePassing, gcn_norm and the formula."""
    geometric = pytest.importorskip("torch_geometric.nn")
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    ours = EdgeGraphConv(batch.nodes.shape[1], 8, batch.edges.shape[1])
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator())
    torch.nn.init.normal_(ours.edge_in.weight, std=0.2, generator=generator(1))

    class Passing(geometric.MessagePassing):
        def __init__(self) -> None:
            super().__init__(aggr="add")

        def forward(self, edge_index, x, gate, shift, norm):  # type: ignore[no-untyped-def]
            return self.propagate(edge_index, x=x, gate=gate, shift=shift, norm=norm)

        def message(self, x_j, gate, shift, norm):  # type: ignore[no-untyped-def]
            return norm.view(-1, 1) * (gate * x_j + shift)

    count, edges = len(batch.nodes), batch.edge_index.shape[1]
    index, norm = gcn_norm(batch.edge_index, batch.weights, count, add_self_loops=True)
    gate = torch.ones(index.shape[1], 8)
    shift = torch.zeros(index.shape[1], 8)
    hidden = ours.edge_in(batch.edges)
    read = ours.edge_out(hidden * torch.sigmoid(hidden))
    gate[:edges], shift[:edges] = 1 + read[:, :8], read[:, 8:]
    expected = Passing()(index, batch.nodes @ ours.lin.weight.T, gate, shift, norm)
    torch.testing.assert_close(
        ours(batch.nodes, batch.edge_index, batch.edges, batch.weights), expected + ours.bias
    )


def test_starts_at_the_recommended_strengths(batch: Batch) -> None:
    strengths = STRONGEST * VGAE(VGAEConfig(), generator()).expected(batch)
    torch.testing.assert_close(strengths, batch.strengths, atol=0.02, rtol=0.0)


def test_without_a_prior_everybody_starts_at_one_half(batch: Batch) -> None:
    expected = VGAE(VGAEConfig(prior=False), generator()).expected(batch)
    torch.testing.assert_close(expected, torch.full_like(expected, 0.5))


def test_betas_have_one_peak_and_weights_lie_inside(batch: Batch) -> None:
    network = shaken()
    latent = network.encode(batch)
    noise = 3 * torch.randn(16, *latent.mean.shape, generator=generator())
    beta = network.decode(latent.drawn(noise), batch)
    assert (beta.concentration1 > 1).all()
    assert (beta.concentration0 > 1).all()
    assert ((beta.mean > 0) & (beta.mean < 1)).all()


def test_a_graph_is_planned_alike_alone_and_among_others(small_snapshot: GraphSnapshot) -> None:
    graphs = [graph_of(small_snapshot, start, seed=start) for start in (0, 2, 5)]
    network = shaken()
    together = network.expected(collate(graphs))
    alone = torch.cat([network.expected(collate([graph])) for graph in graphs])
    torch.testing.assert_close(together, alone)


def test_the_order_of_experts_does_not_matter(small_snapshot: GraphSnapshot) -> None:
    network = shaken()
    embedding = small_snapshot.prompt_embeddings[0]
    refs = small_snapshot.refs
    forth = network.expected(collate([activate(small_snapshot, refs, embedding)]))
    back = network.expected(collate([activate(small_snapshot, refs[::-1], embedding)]))
    torch.testing.assert_close(forth, back.flip(0))


@pytest.mark.parametrize("part", ["scores", "gains", "prompt", "expert"])
def test_the_plan_depends_on_every_part_of_the_graph(batch: Batch, part: str) -> None:
    network = shaken()
    nodes, edges = batch.nodes.clone(), batch.edges.clone()
    if part == "scores":
        edges[:, :5] += 1.0
    elif part == "gains":
        edges[:, 5:10] += 1.0
    elif part == "prompt":
        nodes[batch.users] = nodes[batch.users].roll(1, dims=1)
    else:
        nodes[batch.experts] = nodes[batch.experts].roll(1, dims=1)
    changed = Batch(**{**vars(batch), "nodes": nodes, "edges": edges})
    assert not torch.allclose(network.expected(batch), network.expected(changed), atol=1e-4)


def test_divergence_is_that_of_two_normals(batch: Batch) -> None:
    latent = shaken().encode(batch)
    ours = torch.distributions.Normal(latent.mean, (0.5 * latent.log_variance).exp())
    unit = torch.distributions.Normal(torch.zeros_like(latent.mean), torch.ones(()))
    expected = torch.distributions.kl_divergence(ours, unit).sum(dim=1).mean()
    torch.testing.assert_close(latent.divergence(), expected)


def test_the_same_seed_gives_the_same_network() -> None:
    one, two = (VGAE(VGAEConfig(), generator(7)) for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_edges_are_as_wide_as_the_layers_expect(batch: Batch) -> None:
    assert batch.edges.shape[1] == edge_width(5)
