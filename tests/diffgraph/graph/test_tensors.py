"""Exports hold the same graph, and damaged ones are refused."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from diffgraph.errors import SnapshotError
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.graph.tensors import export_npz, export_pyg, load_npz, to_arrays, to_pyg


def test_npz_comes_back_as_it_was(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    assert export_npz(small_snapshot, tmp_path) == tmp_path
    before, after = to_arrays(small_snapshot), load_npz(tmp_path)
    for field in fields(before):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
        assert type(getattr(after, field.name)) is type(getattr(before, field.name))


def test_edges_are_coo_and_belong_to_their_ends(small_snapshot: GraphSnapshot) -> None:
    arrays = to_arrays(small_snapshot)
    assert arrays.edge_index.shape == (2, 6 * 5)
    edge = int(np.flatnonzero((arrays.edge_index == [[4], [3]]).all(axis=0))[0])
    expected = small_snapshot.edge_features([small_snapshot.refs[4]])[0, 3]
    np.testing.assert_array_equal(arrays.edge_features[edge], expected)


def test_pyg_holds_the_same_graph(small_snapshot: GraphSnapshot) -> None:
    pytest.importorskip("torch_geometric")
    data, arrays = to_pyg(small_snapshot), to_arrays(small_snapshot)
    assert data.validate()
    np.testing.assert_array_equal(data["expert"].x.numpy(), arrays.experts_x)
    np.testing.assert_array_equal(data["prompt"].x.numpy(), arrays.prompts_x)
    edges = data["expert", "scored_on", "prompt"]
    np.testing.assert_array_equal(edges.edge_index.numpy(), arrays.edge_index)
    np.testing.assert_array_equal(edges.edge_attr[:, :5].numpy(), arrays.edge_features)
    np.testing.assert_array_equal(edges.edge_attr[:, 5:].numpy(), arrays.edge_gains)
    assert data["expert"].is_checkpoint.tolist() == [True, True, False, False, False, False]


def test_pyg_reads_its_file_without_unpickling_code(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    import torch
    from torch_geometric.data import HeteroData

    export_pyg(small_snapshot, tmp_path)
    told = torch.load(tmp_path / "graph.pt", weights_only=True)  # noqa: TID251 (what a user does)
    data, expected = HeteroData.from_dict(told), to_pyg(small_snapshot)
    assert data.node_types == expected.node_types
    assert data["expert"].ref == list(small_snapshot.refs)
    ours = data["expert", "scored_on", "prompt"]
    assert torch.equal(ours.edge_attr, expected["expert", "scored_on", "prompt"].edge_attr)
    assert torch.equal(ours.edge_index, expected["expert", "scored_on", "prompt"].edge_index)


@pytest.mark.parametrize("name", ["graph.json", "nodes.npz", "edges.npz"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_export_is_refused(
    small_snapshot: GraphSnapshot, tmp_path: Path, name: str, damage: str
) -> None:
    export_npz(small_snapshot, tmp_path)
    file = tmp_path / name
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif name.endswith("npz"):
        with file.open("wb") as opened:  # an object array would have to be unpickled
            np.savez(opened, experts=np.array([{}], dtype=object))
    else:
        file.write_text("[1, 2]")
    with pytest.raises(SnapshotError, match=tmp_path.name):
        load_npz(tmp_path)


def test_names_and_rows_must_agree(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    export_npz(small_snapshot, tmp_path)
    file = tmp_path / "graph.json"
    file.write_text(file.read_text().replace(f'"{small_snapshot.refs[0]}",', ""))
    with pytest.raises(SnapshotError, match="names for"):
        load_npz(tmp_path)
