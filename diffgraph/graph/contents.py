"""What goes into a snapshot's tables and manifest, and what follows from their numbers?"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from diffgraph.artifacts import sha256_of
from diffgraph.errors import DamagedSnapshot, SnapshotError
from diffgraph.experts.coverage import CoverageReport
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.schema import (
    BASE,
    COVERAGE,
    EMBEDDING_WIDTH,
    NODES,
    OTHER_SCORES,
    PROMPTS,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    ExpertNode,
    Manifest,
    PromptNode,
    coverage_row,
    names_of_scores,
    scores_schema,
)
from diffgraph.homes import is_name
from diffgraph.scoring.reward import SCORE_NAMES, SMALLEST_SPREAD, Reward
from diffgraph.tables import read_table
from diffgraph.version import version

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
"""The hash of the manifest as it was written: it proves the id without computing it again."""
JSON_ROWS = 500  # that are turned into text at once
KEPT_STATUSES = ("ready", "registered_only")
_NODES_1 = pa.schema([column for column in NODES if column not in COVERAGE])


def build_tables(
    family: str, nodes: Sequence[ExpertNode], prompts: Sequence[PromptNode], scores: Any
) -> dict[str, Any]:
    """Return a snapshot's three tables, sorted, with nothing in them twice.

    Raises:
        SnapshotError: the parts do not fit together.
    """
    kept = [node for node in nodes if node.expert.status in KEPT_STATUSES]
    strangers = [node.expert.ref for node in kept if node.expert.family != family]
    if strangers:
        raise SnapshotError(f"not of family {family}: {', '.join(strangers)}")
    for names in ([node.expert.ref for node in kept], [prompt.id for prompt in prompts]):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise SnapshotError(f"given twice: {', '.join(twice)}")
    tables = {
        "nodes": pa.Table.from_pylist(
            [node.row() for node in sorted(kept, key=lambda node: node.expert.ref)], schema=NODES
        ),
        "prompts": pa.Table.from_pylist([prompt.row() for prompt in prompts], schema=PROMPTS),
    }
    tables["scores"] = _known_scores(scores, tables["nodes"], tables["prompts"])
    return tables


def read_parts(paths: Sequence[Path], names: Sequence[str]) -> Any:
    """Return the scores of calibration's parts as one table; raises `DamagedTable`."""
    schema = scores_schema(names)
    return pa.concat_tables([schema.empty_table(), *(read_table(path, schema) for path in paths)])


def _known_scores(table: Any, nodes: Any, prompts: Any) -> Any:
    """Return the scores of these nodes and prompts only, sorted, none of them twice."""
    names = names_of_scores(table)
    if not names or not table.schema.equals(scores_schema(names)):
        raise SnapshotError(f"the scores do not have the columns of schema {SCHEMA_VERSION}")
    experts = pa.array([BASE, *nodes["ref"].to_pylist()], type=pa.string())
    known = pc.and_(
        pc.is_in(table["expert"], value_set=experts),
        pc.is_in(table["prompt"], value_set=prompts["id"].combine_chunks()),
    )
    kept = table.filter(known).sort_by(
        [(name, "ascending") for name in ("expert", "prompt", "seed")]
    )
    kept = kept.combine_chunks()
    keys = kept.select(["expert", "prompt", "seed"])
    if keys.group_by(keys.column_names).aggregate([]).num_rows != keys.num_rows:
        raise SnapshotError("an expert is scored twice on one prompt and seed")
    _require_whole_base(kept, prompts.num_rows)
    return kept


def _require_whole_base(scores: Any, prompts: int) -> None:
    """Refuse a base that is scored on some prompts only: no gain over it could be measured."""
    of_base = scores.filter(pc.equal(scores["expert"], BASE))
    scored = len(pc.unique(of_base["prompt"]))
    if 0 < scored < prompts:
        raise SnapshotError(f"the base is scored on {scored} of {prompts} prompts only")


def content_id(
    family: str,
    tables: Mapping[str, Any],
    sampler: SamplerConfig,
    scorers: str,
    version: int = SCHEMA_VERSION,
) -> str:
    """Return a hash that depends on values alone, not on how a Parquet writer lays them out."""
    digest = hashlib.sha256()
    digest.update(json.dumps([version, family, sampler.model_dump(), scorers]).encode())
    for table_name, table in tables.items():
        for column in table.schema.names:
            digest.update(f"\n{table_name}.{column}\n".encode())
            values = table[column]
            if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
                digest.update(np.ascontiguousarray(values.to_numpy()).tobytes())
            else:
                for part in _as_json(values):
                    digest.update(part)
    return digest.hexdigest()[:16]


def version_of(tables: Mapping[str, Any]) -> int:
    """Return the version that tables are written in; readers of usual scores only refuse others."""
    return SCHEMA_VERSION if names_of_scores(tables["scores"]) == SCORE_NAMES else OTHER_SCORES


def _as_json(column: Any) -> Iterator[bytes]:
    """Yield the JSON list of a column in parts: ten thousand embeddings are 80 MB of text."""
    yield b"["
    for start in range(0, len(column), JSON_ROWS):
        rows = column.slice(start, JSON_ROWS).to_pylist()
        yield (", " if start else "").encode()
        yield json.dumps(rows, default=str)[1:-1].encode()
    yield b"]"


def as_current(nodes: Any, version: int) -> Any:
    """Return a table of experts with the columns of this version, empty where it had none."""
    if version >= SCHEMA_VERSION or not nodes.schema.equals(_NODES_1):
        return nodes
    row = coverage_row(CoverageReport())
    at = nodes.column_names.index("embedding")
    for column in COVERAGE:
        values = pa.array([row[column.name]] * nodes.num_rows, type=column.type)
        nodes = nodes.add_column(at, column, values)
        at += 1
    return nodes


def matrix_of(column: Any) -> NDArray[np.float32]:
    """Return a column of embeddings as (rows, 384), writable."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float32).reshape(-1, EMBEDDING_WIDTH)


def mean_scores(scores: Any, prompt_ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return each expert's (prompts, scores) as a mean over seeds; NaN where one is missing."""
    if not scores.num_rows:
        return {}
    experts = scores["expert"].combine_chunks().dictionary_encode()
    names = experts.dictionary.to_pylist()
    order = pa.array(prompt_ids, type=pa.string())
    columns = pc.index_in(scores["prompt"], value_set=order).to_numpy().astype(np.int64)
    cells = experts.indices.to_numpy().astype(np.int64) * len(prompt_ids) + columns
    size = len(names) * len(prompt_ids)
    counts = np.bincount(cells, minlength=size)
    score_names = names_of_scores(scores)
    cube = np.full((size, len(score_names)), np.nan)
    for place, name in enumerate(score_names):
        sums = np.bincount(
            cells, weights=scores[name].to_numpy().astype(np.float64), minlength=size
        )
        np.divide(sums, counts, out=cube[:, place], where=counts > 0)
    shape = (len(names), len(prompt_ids), len(score_names))
    return dict(zip(names, cube.reshape(shape), strict=True))


def fit_reward(scores: Any) -> Reward | None:
    """Return the reward that this graph's scores fix; None without scores.

    A score counts from the base's mean, in units of what experts change on one and the same prompt
    (the root mean square deviation from the prompt's mean over all experts). Units from the
    base's own scores would measure how prompts differ instead: a scorer that rates every image of
    the base alike would then outweigh all others as soon as an expert changes anything.
    """
    finite = scores
    for name in names_of_scores(scores):
        finite = finite.filter(pc.is_finite(finite[name]))
    if not finite.num_rows:
        return None
    values = _values(finite)
    of_base = values[pc.equal(finite["expert"], BASE).to_numpy()]
    plain = Reward.fit(
        torch.from_numpy(of_base if len(of_base) else values), names=names_of_scores(scores)
    )
    _, prompt = np.unique(finite["prompt"].to_numpy(), return_inverse=True)
    counts = np.bincount(prompt)
    means = np.stack([np.bincount(prompt, weights=column) / counts for column in values.T], axis=1)
    spread = np.sqrt(((values - means[prompt]) ** 2).mean(axis=0))
    if spread.max() <= SMALLEST_SPREAD:  # nothing but the base is calibrated yet
        return plain
    return plain.model_copy(update={"spread": tuple(spread.tolist())})


def _values(scores: Any) -> NDArray[np.float64]:
    """Return (rows, scores)."""
    columns = [scores[name].to_numpy() for name in names_of_scores(scores)]
    return np.stack(columns, axis=1).astype(np.float64)


def units_of_base(scores: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of the base's scores (of all, if it has none): (scores,) each.

    Edges are kept in these units, since they stay as they are when experts come and go. A score
    that never varied has a deviation of 1: it counts for nothing either way.
    """
    rows = scores.filter(pc.equal(scores["expert"], BASE))
    rows = rows if rows.num_rows else scores
    values = _values(rows)
    spread = np.nanstd(values, axis=0)
    return np.nanmean(values, axis=0), np.where(spread > SMALLEST_SPREAD, spread, 1.0)


def is_mergeable(row: Mapping[str, Any]) -> bool:
    """Whether a node may be merged, as far as its own row can tell."""
    return row["status"] == "ready" and row["allow_derivatives"] and bool(row["agent"])


def build_manifest(
    snapshot_id: str, family: str, tables: Mapping[str, Any], sampler: SamplerConfig, scorers: str
) -> Manifest:
    """Return the manifest of these tables, without parent and files."""
    prompt_ids = tuple(tables["prompts"]["id"].to_pylist())
    cube = mean_scores(tables["scores"], prompt_ids)
    rows = tables["nodes"].to_pylist()
    candidates = [row["ref"] for row in rows if is_mergeable(row)]
    lacking = tuple(
        ref for ref in candidates if ref not in cube or not np.isfinite(cube[ref]).all()
    )
    return Manifest(
        schema_version=version_of(tables),
        scores=names_of_scores(tables["scores"]),
        id=snapshot_id,
        family=family,
        created_at=datetime.now(UTC),
        code_version=version(),
        files={},
        sampler=sampler,
        scorers=scorers,
        reward=fit_reward(tables["scores"]),
        experts=len(rows),
        mergeable=len(candidates) - len(lacking),
        uncalibrated=lacking,
    )


def manifests(root: Path) -> list[Manifest]:
    """Return those of the snapshots in a folder, oldest first; damaged ones are left out."""
    found = []
    for file in root.glob(f"*/{MANIFEST}"):
        if is_name(file.parent.name):  # others were set aside
            try:
                found.append(read_manifest(file.parent))
            except SnapshotError as error:
                log.warning("a snapshot is left out: %s", error)
    return sorted(found, key=lambda manifest: (manifest.created_at, manifest.id))


def next_moment(root: Path) -> datetime:
    """Return now, or a moment after all snapshots in a folder: a clock may have been set back."""
    after = [made.created_at + timedelta(microseconds=1) for made in manifests(root)[-1:]]
    return max([datetime.now(UTC), *after])


def read_manifest(folder: Path) -> Manifest:
    """Return a snapshot's manifest.

    Raises:
        DamagedSnapshot: it is missing or damaged.
        SnapshotError: it cannot be read, or is of another schema version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DamagedSnapshot(f"no snapshot: {file} is missing")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SnapshotError(f"{file} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedSnapshot(f"{file} cannot be read: {error}") from error
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if not isinstance(version, int):
        raise DamagedSnapshot(f"{file} has schema version {version}")
    if version not in READABLE_VERSIONS:
        raise SnapshotError(
            f"{file} has schema version {version}, this code reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}"
        )
    try:
        return Manifest.model_validate(facts)
    except ValidationError as error:
        raise DamagedSnapshot(
            f"{file} is not a manifest: {error.error_count()} wrong entries"
        ) from error


def is_sealed(folder: Path) -> bool:
    """Return whether a snapshot has a seal; raises `DamagedSnapshot` if its manifest broke it."""
    seal, file = folder / SEAL, folder / MANIFEST
    if not seal.is_file():
        return False
    if seal.read_text(encoding="utf-8", errors="replace").strip() != sha256_of(file):
        raise DamagedSnapshot(f"{file} is not what was written: its hash is not the one in {SEAL}")
    return True


def check_id(manifest: Manifest, tables: Mapping[str, Any]) -> None:
    """Raise `DamagedSnapshot` unless the tables have the manifest's id: for want of a seal."""
    if manifest.schema_version == 1 and set(COVERAGE) <= set(tables["nodes"].schema):
        tables = {**tables, "nodes": tables["nodes"].select(_NODES_1.names)}
    made = (manifest.family, tables, manifest.sampler, manifest.scorers)
    true_id = content_id(*made, version=manifest.schema_version)
    if true_id != manifest.id:
        raise DamagedSnapshot(f"what snapshot {manifest.id} holds has the id {true_id}")
