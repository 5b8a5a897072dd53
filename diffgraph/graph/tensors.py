"""How do other tools read the graph? As COO edges with .npz features, or as a PyG `HeteroData`.

The paper keeps its graph as connections in COO format with node and edge features in .npz files
(https://arxiv.org/abs/2603.20470, section 3.1). Nothing is pickled: `load_npz` reads with pickle
off, and a `HeteroData` is stored as the plain dictionary that it is made of.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffgraph.artifacts import new_file, write_text
from diffgraph.errors import SnapshotError
from diffgraph.graph.snapshot import GraphSnapshot

NAMES, NODES, EDGES = "graph.json", "nodes.npz", "edges.npz"
PYG = "graph.pt"


@dataclass(frozen=True)
class GraphArrays:
    """A snapshot's mergeable part as arrays."""

    snapshot_id: str
    family: str
    refs: tuple[str, ...]
    kinds: tuple[str, ...]
    prompts: tuple[str, ...]
    experts_x: NDArray[np.float32]  # (experts, 384)
    strengths: NDArray[np.float32]  # (experts,)
    prompts_x: NDArray[np.float32]  # (prompts, 384)
    edge_index: NDArray[np.int64]  # (2, edges): expert row, prompt row
    edge_features: NDArray[np.float32]  # (edges, scores), standardised
    edge_gains: NDArray[np.float32]  # (edges, scores), above the base


def to_arrays(snapshot: GraphSnapshot) -> GraphArrays:
    """Return the mergeable experts, the reference prompts and the edges between them.

    An expert that is not calibrated yet has no edges.
    """
    measured, prompts = snapshot.calibrated, len(snapshot.prompt_ids)
    rows = np.repeat(np.array(snapshot.index(measured), dtype=np.int64), prompts)
    columns = np.tile(np.arange(prompts, dtype=np.int64), len(measured))
    width = len(snapshot.score_names)
    return GraphArrays(
        snapshot_id=snapshot.id,
        family=snapshot.family,
        refs=snapshot.refs,
        kinds=snapshot.kinds,
        prompts=snapshot.prompt_ids,
        experts_x=snapshot.embeddings,
        strengths=snapshot.strengths,
        prompts_x=snapshot.prompt_embeddings,
        edge_index=np.stack([rows, columns]),
        edge_features=snapshot.edge_features(measured).reshape(-1, width),
        edge_gains=snapshot.edge_gains(measured).reshape(-1, width),
    )


def export_npz(snapshot: GraphSnapshot, folder: Path) -> Path:
    """Write `graph.json` (names), `nodes.npz` and `edges.npz` (COO, features); return `folder`.

    Raises:
        StorageError: the folder cannot be written.
    """
    arrays = to_arrays(snapshot)
    _write_npz(
        folder / NODES,
        {"experts": arrays.experts_x, "strengths": arrays.strengths, "prompts": arrays.prompts_x},
    )
    _write_npz(
        folder / EDGES,
        {"row": arrays.edge_index[0], "col": arrays.edge_index[1], "scores": arrays.edge_features,
         "gains": arrays.edge_gains},
    )  # fmt: skip
    names = {
        "snapshot": arrays.snapshot_id,
        "family": arrays.family,
        "experts": arrays.refs,
        "kinds": arrays.kinds,
        "prompts": arrays.prompts,
        "scores": snapshot.score_names,
    }
    write_text(folder / NAMES, json.dumps(names, indent=1))
    return folder


def load_npz(folder: Path) -> GraphArrays:
    """Return what `export_npz` wrote.

    Raises:
        SnapshotError: a file is missing, damaged or does not fit the others.
    """
    try:
        names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        nodes = _read_npz(folder / NODES)
        edges = _read_npz(folder / EDGES)
        arrays = GraphArrays(
            snapshot_id=names["snapshot"],
            family=names["family"],
            refs=tuple(names["experts"]),
            kinds=tuple(names["kinds"]),
            prompts=tuple(names["prompts"]),
            experts_x=nodes["experts"],
            strengths=nodes["strengths"],
            prompts_x=nodes["prompts"],
            edge_index=np.stack([edges["row"], edges["col"]]),
            edge_features=edges["scores"],
            edge_gains=edges["gains"],
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise SnapshotError(f"{folder} does not hold an exported graph: {error}") from error
    counts = (len(arrays.refs), len(arrays.prompts), arrays.edge_index.shape[1])
    found = (len(arrays.experts_x), len(arrays.prompts_x), len(arrays.edge_features))
    if counts != found:
        raise SnapshotError(
            f"{folder}: names for {counts} experts, prompts, edges; rows for {found}"
        )
    return arrays


def to_pyg(snapshot: GraphSnapshot) -> Any:
    """Return the graph as a `torch_geometric.data.HeteroData` (needs torch_geometric).

    Node types `expert` and `prompt`; edge type `("expert", "scored_on", "prompt")` whose
    `edge_attr` holds the scores (`snapshot.score_names`), then as many gains over the base.
    """
    import torch
    from torch_geometric.data import HeteroData

    arrays = to_arrays(snapshot)
    data = HeteroData()
    data["expert"].x = torch.from_numpy(arrays.experts_x.copy())
    data["expert"].strength = torch.from_numpy(arrays.strengths.copy())
    data["expert"].is_checkpoint = torch.tensor([kind == "checkpoint" for kind in arrays.kinds])
    data["expert"].ref = list(arrays.refs)
    data["prompt"].x = torch.from_numpy(arrays.prompts_x.copy())
    data["prompt"].id = list(arrays.prompts)
    edges = data["expert", "scored_on", "prompt"]
    edges.edge_index = torch.from_numpy(arrays.edge_index)
    edges.edge_attr = torch.from_numpy(
        np.concatenate([arrays.edge_features, arrays.edge_gains], axis=1)
    )
    return data


def export_pyg(snapshot: GraphSnapshot, folder: Path) -> Path:
    """Write `graph.pt`, a `HeteroData` as a plain dictionary of tensors and texts; return `folder`.

    `HeteroData.from_dict(torch.load(file, weights_only=True))` reads it: no code is unpickled.

    Raises:
        StorageError: the folder cannot be written.
    """
    import torch

    with new_file(folder / PYG) as part:
        torch.save(to_pyg(snapshot).to_dict(), part)
    return folder


def _write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    # an open file keeps numpy from adding .npz to the temporary name
    with new_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
