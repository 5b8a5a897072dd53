"""What do we know, all at once? One immutable folder that names the scores with what made them.

A snapshot is three Parquet tables and a manifest in `snapshots/<id>/`. Its id is the hash of its
content, so writing the same knowledge twice gives one folder, and the name of a snapshot names its
every number. `current` beside them is a pointer, replaced last: readers see the old graph or the
new one whole, and never wait for the writer. DuckDB queries the Parquet files; it is never the
store itself, because a `.duckdb` file refuses readers while another process writes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffgraph.artifacts import holding, lock_at, new_folder, set_aside, sha256_of, storing
from diffgraph.errors import DamagedSnapshot, InputError, MissingInput, SnapshotError
from diffgraph.experts.expert import Kind
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.contents import (
    MANIFEST,
    SEAL,
    as_current,
    build_manifest,
    build_tables,
    check_id,
    content_id,
    is_mergeable,
    is_sealed,
    manifests,
    matrix_of,
    mean_scores,
    next_moment,
    read_manifest,
    units_of_base,
    version_of,
)
from diffgraph.graph.history import Difference, difference_of
from diffgraph.graph.schema import BASE, TABLES, ExpertNode, Manifest, PromptNode, scores_schema
from diffgraph.homes import CURRENT, REGISTERED, is_name, read_pointer, write_pointer
from diffgraph.scoring.reward import Reward

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)

SNAPSHOTS = "snapshots"


class GraphSnapshot:
    """One immutable graph, read as it is asked for.

    `refs`, `kinds`, `names`, `trigger_words`, `texts`, `sha256s`, `embeddings` and `strengths` are
    over the mergeable experts, in one order: ready, and allowed by their licence.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def id(self) -> str:
        """The snapshot's content hash."""
        return self.manifest.id

    @property
    def family(self) -> str:
        """The family that all experts belong to."""
        return self.manifest.family

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores on the edges, in their order."""
        return self.manifest.scores

    # -- tables ---------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> Any:
        """Every expert node, mergeable or not, as an Arrow table (`schema.NODES`)."""
        return self.table("nodes")

    @cached_property
    def prompts(self) -> Any:
        """The reference prompts as an Arrow table (`schema.PROMPTS`)."""
        return self.table("prompts")

    @cached_property
    def scores(self) -> Any:
        """The scores as an Arrow table (`schema.scores_schema`)."""
        return self.table("scores")

    def sql(self, query: str) -> "DataFrame":
        """Return what DuckDB answers to a query over `nodes`, `prompts` and `scores`.

        It sees these three tables, reads no other file and writes none.

        Raises:
            InputError: the query cannot be answered.
        """
        import duckdb
        import pyarrow.dataset as ds

        with duckdb.connect(":memory:") as connection:
            for name in TABLES:
                connection.register(name, ds.dataset(self.folder / f"{name}.parquet"))
            connection.execute("SET enable_external_access=false")
            connection.execute("SET python_enable_replacements=false")  # variables of ours
            connection.execute("SET lock_configuration=true")
            try:
                answer = connection.sql(query)
                found = None if answer is None else answer.df()
            except duckdb.Error as error:
                raise InputError(f"the query cannot be answered: {error}") from error
        if found is None:
            raise InputError("the query cannot be answered: it asks for nothing")
        return found

    # -- mergeable experts ----------------------------------------------------------------------

    @cached_property
    def _mergeable(self) -> Any:
        rows = self.nodes.select(["status", "allow_derivatives", "agent"]).to_pylist()
        return self.nodes.filter(pa.array(map(is_mergeable, rows), type=pa.bool_()))

    @cached_property
    def refs(self) -> tuple[str, ...]:
        """References of the mergeable experts."""
        return self._column("ref")

    @cached_property
    def calibrated(self) -> tuple[str, ...]:
        """Those of `refs` that are scored on every reference prompt."""
        waiting = set(self.manifest.uncalibrated)
        return tuple(ref for ref in self.refs if ref not in waiting)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """`checkpoint` or `peft`, for each of `refs`."""
        return self._column("kind")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names as their pages give them (untrusted text), for each of `refs`."""
        return self._column("name")

    @cached_property
    def trigger_words(self) -> tuple[tuple[str, ...], ...]:
        """What their pages say to write in a prompt (untrusted text), for each of `refs`."""
        return tuple(tuple(words) for words in self._column("trigger_words"))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Card texts, for each of `refs`."""
        return self._column("text")

    @cached_property
    def sha256s(self) -> tuple[str, ...]:
        """Hashes of the weights files, for each of `refs`."""
        return self._column("sha256")

    @cached_property
    def strengths(self) -> NDArray[np.float32]:
        """Recommended strengths, for each of `refs`: (experts,)."""
        return np.asarray(self._column("recommended_strength"), dtype=np.float32)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Card texts as unit vectors, for each of `refs`: (experts, 384)."""
        return matrix_of(self._mergeable["embedding"])

    def index(self, refs: Sequence[str]) -> list[int]:
        """Return the rows of experts among `refs`.

        Raises:
            SnapshotError: one of them is not a mergeable expert of this snapshot.
        """
        unknown = [ref for ref in refs if ref not in self._rows]
        if unknown:
            raise SnapshotError(
                f"snapshot {self.id} holds no mergeable expert {', '.join(unknown)}"
            )
        return [self._rows[ref] for ref in refs]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {ref: row for row, ref in enumerate(self.refs)}

    # -- reference prompts and edges --------------------------------------------------------------

    @cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids of the reference prompts, in the order of the edges."""
        return tuple(self.prompts["id"].to_pylist())

    @cached_property
    def prompt_texts(self) -> tuple[str, ...]:
        """Texts of the reference prompts."""
        return tuple(self.prompts["text"].to_pylist())

    @cached_property
    def prompt_embeddings(self) -> NDArray[np.float32]:
        """Reference prompts as unit vectors: (prompts, 384)."""
        return matrix_of(self.prompts["embedding"])

    def edge_features(self, refs: Sequence[str]) -> NDArray[np.float32]:
        """Return calibrated experts' standardised scores: (experts, prompts, scores), seeds' mean.

        Standardised by the base's mean and deviation, which stay as experts come and go. The order
        of the last axis is `score_names`.
        """
        return ((self._edges(refs) - self._units[0]) / self._units[1]).astype(np.float32)

    def edge_gains(self, refs: Sequence[str]) -> NDArray[np.float32]:
        """Return how far experts' scores lie above the base's, in its deviations: as above."""
        if BASE not in self._cube:
            return self.edge_features(refs) * 0.0
        return ((self._edges(refs) - self._cube[BASE]) / self._units[1]).astype(np.float32)

    def _edges(self, refs: Sequence[str]) -> NDArray[np.float64]:
        if unscored := set(refs).difference(self.calibrated):
            raise SnapshotError(f"snapshot {self.id} holds no scores of {', '.join(unscored)}")
        shape = (len(refs), len(self.prompt_ids), len(self.score_names))
        return np.array([self._cube[ref] for ref in refs]).reshape(shape)

    @cached_property
    def reward(self) -> Reward:
        """The reward whose constants this snapshot fixes.

        Raises:
            SnapshotError: nothing is calibrated yet.
        """
        if self.manifest.reward is None:
            raise SnapshotError(
                f"snapshot {self.id} holds no scores to make a reward of: run `diffgraph build`"
            )
        return self.manifest.reward

    @cached_property
    def _cube(self) -> dict[str, NDArray[np.float64]]:
        return mean_scores(self.scores, self.prompt_ids)

    @cached_property
    def _units(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return units_of_base(self.scores)

    # -- history ----------------------------------------------------------------------------------

    def difference(self, older: "GraphSnapshot | None") -> Difference:
        """Return what is new, updated or retired here against an older snapshot (None: nothing)."""
        return difference_of(self.nodes, older.nodes if older else None)

    def _column(self, name: str) -> tuple[Any, ...]:
        return tuple(self._mergeable[name].to_pylist())

    def table(self, name: str) -> Any:
        """Return one of the three tables, by its name in `schema.TABLES`."""
        try:
            table = pq.read_table(self.folder / f"{name}.parquet")
        except (OSError, pa.ArrowException) as error:
            raise SnapshotError(f"{self.folder / name}.parquet cannot be read: {error}") from error
        if name == "nodes":
            table = as_current(table, self.manifest.schema_version)
        columns = scores_schema(self.score_names) if name == "scores" else TABLES[name]
        if not table.schema.equals(columns):
            raise SnapshotError(f"{self.folder / name}.parquet has other columns than it should")
        return table


def write_snapshot(  # noqa: PLR0913 (what a snapshot is made of, one argument a part)
    place: Path,
    family: str,
    nodes: Sequence[ExpertNode],
    prompts: Sequence[PromptNode],
    scores: Any,
    sampler: SamplerConfig,
    scorers: str,
    is_built: bool = True,
) -> str:
    """Write what is known as a snapshot, put it in force and return its id.

    Args:
        place: the folder of the family in a home; the snapshot goes below `snapshots/`.
        family: of all the experts.
        nodes: experts to keep; those neither ready nor registered are left out.
        prompts: the reference prompts.
        scores: an Arrow table (`schema.scores_schema`): its columns say which scores there are.
        sampler: how the scored images were sampled.
        scorers: identity of the scorers.
        is_built: whether it is the current one; or the one with what was registered since.

    Raises:
        SnapshotError: the parts do not fit together.
        StorageError: it cannot be written.
    """
    tables = build_tables(family, nodes, prompts, scores)
    snapshot_id = content_id(family, tables, sampler, scorers, version_of(tables))
    with writing(place) as root:
        folder, parent = root / snapshot_id, None
        if folder.exists() and (damage := _damage(place, snapshot_id)):
            log.warning("%s; it is set aside as %s and made again", damage, set_aside(folder).name)
        if not folder.exists():
            with suppress(DamagedSnapshot):  # a damaged pointer is about to be replaced
                parent = current_id(place)
            with new_folder(folder) as part:
                for name, table in tables.items():
                    pq.write_table(table, part / f"{name}.parquet", compression="zstd")
                manifest = build_manifest(snapshot_id, family, tables, sampler, scorers).model_copy(
                    update={
                        "parent": parent,
                        "created_at": next_moment(root),
                        "files": {file.name: sha256_of(file) for file in sorted(part.iterdir())},
                    }
                )
                (part / MANIFEST).write_text(manifest.written(), encoding="utf-8")
                (part / SEAL).write_text(sha256_of(part / MANIFEST), encoding="utf-8")
        if is_built:
            write_pointer(place / CURRENT, snapshot_id)
        if is_built or snapshot_id == current_id(place):
            with storing(place):
                (place / REGISTERED).unlink(missing_ok=True)
        else:
            write_pointer(place / REGISTERED, snapshot_id)
    log.info("snapshot %s: %d experts", snapshot_id, tables["nodes"].num_rows)
    return snapshot_id


@contextmanager
def writing(place: Path) -> Iterator[Path]:
    """Hold the lock of a family's snapshots; yields their folder."""
    root = place / SNAPSHOTS
    with holding(lock_at(root / ".lock")):
        yield root


def open_snapshot(place: Path, snapshot_id: str | None = None) -> GraphSnapshot:
    """Return a snapshot whose files are proven whole.

    Args:
        place: a snapshot's own folder, or that of a family in a home.
        snapshot_id: which one of the family; the current one by default.

    Raises:
        SnapshotError: there is none, or it is damaged.
    """
    folder = place
    if not (place / MANIFEST).is_file():
        snapshot_id = snapshot_id or current_id(place)
        if snapshot_id is None:
            raise SnapshotError(f"{place} holds no snapshot yet")
        if not is_name(snapshot_id):
            raise SnapshotError(f"not the id of a snapshot: {snapshot_id[:80]!r}")
        folder = place / SNAPSHOTS / snapshot_id
    manifest = read_manifest(folder)
    if snapshot_id is not None and manifest.id != snapshot_id:
        raise DamagedSnapshot(f"{folder} holds snapshot {manifest.id}, not {snapshot_id}")
    for name in TABLES:
        file, stated = folder / f"{name}.parquet", manifest.files.get(f"{name}.parquet")
        if not file.is_file():
            raise DamagedSnapshot(f"{file} is missing")
        if sha256_of(file) != stated:
            raise DamagedSnapshot(f"{file} is damaged: its hash is not the one in its manifest")
    found = GraphSnapshot(folder, manifest)
    if not is_sealed(folder):
        check_id(manifest, {name: found.table(name) for name in TABLES})
    return found


def current_id(place: Path) -> str | None:
    """Return the id of a family's current snapshot, if it has one; raises `DamagedSnapshot`."""
    try:
        return read_pointer(place / CURRENT)
    except MissingInput as error:
        raise DamagedSnapshot(str(error)) from error


def snapshot_ids(place: Path) -> tuple[str, ...]:
    """Return the ids of a family's snapshots, oldest first; damaged ones are left out."""
    return tuple(manifest.id for manifest in manifests(place / SNAPSHOTS))


def _damage(place: Path, snapshot_id: str) -> DamagedSnapshot | None:
    try:
        open_snapshot(place, snapshot_id)
    except DamagedSnapshot as error:
        return error
    return None
