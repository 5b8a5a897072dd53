"""Snapshots: named by content, whole or refused, and read as they were written."""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diffgraph.errors import InputError, SnapshotError, StorageError
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Expert, Licence
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.schema import BASE, SCORES, ExpertNode, PromptNode
from diffgraph.graph.snapshot import (
    GraphSnapshot,
    current_id,
    open_snapshot,
    snapshot_ids,
    write_snapshot,
)
from diffgraph.scoring.reward import SCORE_NAMES

Make = Callable[..., GraphSnapshot]


def node(ref: str, vector: Sequence[float] = (1.0,), **facts: Any) -> ExpertNode:
    embedding = np.zeros(384, dtype=np.float32)
    embedding[: len(vector)] = vector
    card = ExpertCard(summary=f"Does {ref}.", agent="offline", recommended_strength=0.8)
    known = {"name": ref, "kind": "peft", "family": "emoji64", "sha256": ref} | facts
    return ExpertNode(Expert(ref=ref, **known), card, embedding)


def prompt(name: str) -> PromptNode:
    embedding = np.zeros(384, dtype=np.float32)
    embedding[0] = 1.0
    return PromptNode(name, f"a {name}", 7, embedding)


def scores(rows: Sequence[tuple[str, str, int, float]]) -> Any:
    """Return a table in which all five scores of a row are the same number."""
    return pa.Table.from_pylist(
        [
            {"expert": expert, "prompt": name, "seed": seed, **dict.fromkeys(SCORE_NAMES, value)}
            for expert, name, seed, value in rows
        ],
        schema=SCORES,
    )


def write(
    home: Path, nodes: Sequence[ExpertNode], table: Any, prompts: Sequence[str] = ("cat", "dog")
) -> str:
    return write_snapshot(
        home, "emoji64", nodes, [prompt(name) for name in prompts], table, SamplerConfig(), "five"
    )


ALONE = [("folder:a@1", "cat", 7, 5.0), ("folder:a@1", "dog", 7, 9.0)]
BASE_ROWS = [(BASE, "cat", 7, 1.0), (BASE, "dog", 7, 3.0)]  # mean 2, deviation 1


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    written = write(tmp_path, [node("folder:a@1", (0.6, 0.8))], scores(ALONE + BASE_ROWS))
    snapshot = open_snapshot(tmp_path)
    assert snapshot.id == written == current_id(tmp_path)
    assert snapshot.refs == ("folder:a@1",)
    assert snapshot.kinds == ("peft",)
    assert snapshot.texts == ("Does folder:a@1.",)
    assert snapshot.embeddings[0, :2].tolist() == pytest.approx([0.6, 0.8])
    assert snapshot.strengths.tolist() == pytest.approx([0.8])
    assert snapshot.prompt_texts == ("a cat", "a dog")


def test_edges_are_standardised_on_the_base_and_gains_are_above_it(tmp_path: Path) -> None:
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    snapshot = open_snapshot(tmp_path)
    assert snapshot.edge_features(["folder:a@1"])[0, :, 0].tolist() == pytest.approx([3.0, 7.0])
    assert snapshot.edge_gains(["folder:a@1"])[0, :, 4].tolist() == pytest.approx([4.0, 6.0])
    assert snapshot.reward.mean == pytest.approx((2.0,) * 5)


def test_a_new_expert_leaves_the_others_edges_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "one", [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    more = [("folder:b@1", "cat", 7, 100.0), ("folder:b@1", "dog", 7, -100.0)]
    both = [node("folder:a@1"), node("folder:b@1")]
    write(tmp_path / "two", both, scores(ALONE + BASE_ROWS + more))
    before, after = open_snapshot(tmp_path / "one"), open_snapshot(tmp_path / "two")
    np.testing.assert_array_equal(
        before.edge_features(["folder:a@1"]), after.edge_features(["folder:a@1"])
    )


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    more = [("folder:a@1", "cat", 8, 7.0), (BASE, "cat", 8, 1.0), (BASE, "dog", 8, 3.0)]
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS + more))
    edges = open_snapshot(tmp_path).edge_features(["folder:a@1"])
    assert edges[0, :, 0].tolist() == pytest.approx([4.0, 7.0])


def test_the_same_content_has_the_same_id_in_any_order(tmp_path: Path) -> None:
    nodes = [node("folder:a@1"), node("folder:b@1")]
    rows = ALONE + BASE_ROWS
    first = write(tmp_path / "one", nodes, scores(rows))
    again = write(tmp_path / "one", nodes, scores(rows))
    other = write(tmp_path / "two", nodes[::-1], scores(rows[::-1]))
    assert first == again == other
    assert snapshot_ids(tmp_path / "one") == (first,)


@pytest.mark.parametrize("change", ["score", "card", "sampler"])
def test_other_content_has_another_id(tmp_path: Path, change: str) -> None:
    first = write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    rows = ALONE + BASE_ROWS if change != "score" else [*ALONE, BASE_ROWS[0], (BASE, "dog", 7, 3.5)]
    nodes = [node("folder:a@1", name="Renamed" if change == "card" else "folder:a@1")]
    sampler = SamplerConfig(steps=30) if change == "sampler" else SamplerConfig()
    prompts = [prompt("cat"), prompt("dog")]
    second = write_snapshot(tmp_path, "emoji64", nodes, prompts, scores(rows), sampler, "five")
    assert second != first
    assert open_snapshot(tmp_path).manifest.parent == first
    assert open_snapshot(tmp_path, first).id == first
    assert snapshot_ids(tmp_path) == (first, second)


def test_what_must_not_be_merged_is_shown_but_never_offered(tmp_path: Path) -> None:
    nodes = [
        node("folder:a@1"),
        node("folder:b@1", licence=Licence(allow_derivatives=False)),
        node("folder:c@1", status="registered_only"),
        node("folder:d@1"),  # not calibrated yet
        node("folder:e@1", status="rejected", reason="DamagedFile"),
        ExpertNode(Expert(ref="folder:f@1", name="f", kind="peft", family="emoji64")),
    ]
    rows = ALONE + BASE_ROWS + [("folder:d@1", "cat", 7, 1.0)]
    for ref in ("folder:b@1", "folder:c@1", "folder:f@1"):
        rows += [(ref, "cat", 7, 1.0), (ref, "dog", 7, 1.0)]
    write(tmp_path, nodes, scores(rows))
    snapshot = open_snapshot(tmp_path)
    assert snapshot.refs == ("folder:a@1", "folder:d@1")
    assert snapshot.calibrated == ("folder:a@1",)
    assert snapshot.manifest.uncalibrated == ("folder:d@1",)
    assert snapshot.nodes["ref"].to_pylist() == [f"folder:{name}@1" for name in "abcdf"]
    with pytest.raises(SnapshotError, match="folder:d@1"):
        snapshot.edge_features(["folder:d@1"])


def test_scores_of_strangers_are_left_out(tmp_path: Path) -> None:
    rows = [*ALONE, *BASE_ROWS, ("folder:gone@1", "cat", 7, 1.0), (BASE, "owl", 7, 50.0)]
    write(tmp_path, [node("folder:a@1")], scores(rows))
    assert open_snapshot(tmp_path).scores.num_rows == 4


def test_queries_see_the_three_tables_and_no_other_file(tmp_path: Path) -> None:
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    snapshot = open_snapshot(tmp_path)
    sql = "SELECT name, avg(hps) AS mean FROM scores JOIN nodes ON ref = expert GROUP BY name"
    assert snapshot.sql(sql).to_dict("records") == [{"name": "folder:a@1", "mean": 7.0}]
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    for refused in (
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY (SELECT 1) TO '{snapshot.folder}/more.parquet'",  # a snapshot never changes
        "SET enable_external_access=true",
        "SELECT * FROM secret",  # no variable of this process is a table
        "SELECT * FROM nowhere",
        "",
        "nonsense",
    ):
        with pytest.raises(InputError, match="the query cannot be answered"):
            snapshot.sql(refused)
    open_snapshot(tmp_path)


def test_difference_names_new_updated_and_retired(tmp_path: Path) -> None:
    first = write(tmp_path, [node(f"folder:{n}@1") for n in "abcd"], scores(BASE_ROWS))
    nodes = [
        node("folder:a@1"),
        node("folder:b@2"),
        node("folder:c@1", sha256="new"),
        node("folder:e@1"),
    ]
    second = write(tmp_path, nodes, scores(BASE_ROWS))
    old, new = open_snapshot(tmp_path, first), open_snapshot(tmp_path, second)
    change = new.difference(old)
    assert change.new == ("folder:e@1",)
    assert change.updated == ("folder:b@2", "folder:c@1")
    assert change.retired == ("folder:d@1",)
    assert len(new.difference(None).new) == 4


@pytest.mark.parametrize("name", ["nodes.parquet", "scores.parquet", "prompts.parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_found_and_named(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    file = open_snapshot(tmp_path).folder / name
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(SnapshotError, match=name):
        open_snapshot(tmp_path)


def test_a_manifest_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    file = open_snapshot(tmp_path).folder / "manifest.json"
    whole = json.loads(file.read_text())
    for text, reason in (
        ("{", "cannot be read"),
        ("[]", "schema version None"),
        (json.dumps(whole | {"schema_version": 99}), "schema version 99"),
        (json.dumps(whole | {"files": 3}), "not a manifest"),
        (json.dumps(whole | {"id": "0" * 16}), "not "),
    ):
        file.write_text(text)
        with pytest.raises(SnapshotError, match=reason):
            open_snapshot(tmp_path)


def test_no_snapshot_yet_is_said_so(tmp_path: Path) -> None:
    assert current_id(tmp_path) is None
    with pytest.raises(SnapshotError, match="no snapshot yet"):
        open_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="not the id"):
        open_snapshot(tmp_path, "../../etc")
    with pytest.raises(SnapshotError, match="missing"):
        open_snapshot(tmp_path, "abc")


@pytest.mark.parametrize("content", [b"../../etc", b"", b"\xff\xfe\x00"])
def test_a_damaged_pointer_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    (tmp_path / "current").write_bytes(content)
    with pytest.raises(SnapshotError, match="current holds no id"):
        open_snapshot(tmp_path)


def test_a_snapshot_can_be_moved_out_of_its_home(tmp_path: Path) -> None:
    snapshot_id = write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    moved = tmp_path / "bundled"
    shutil.move(tmp_path / "snapshots" / snapshot_id, moved)
    assert open_snapshot(moved).id == snapshot_id


@pytest.mark.parametrize(
    ("nodes", "rows", "reason"),
    [
        ([node("folder:a@1"), node("folder:a@1")], [], "given twice: folder:a@1"),
        ([node("folder:a@1", family="sd15")], [], "not of family emoji64"),
        ([node("folder:a@1")], ALONE + ALONE[:1], "scored twice"),
        ([node("folder:a@1")], [*ALONE, BASE_ROWS[0]], "base"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, nodes: list[ExpertNode], rows: list[Any], reason: str
) -> None:
    with pytest.raises(SnapshotError, match=reason):
        write(tmp_path, nodes, scores(rows))
    assert current_id(tmp_path) is None


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.raises(StorageError, match="snapshots"):
        write(tmp_path, [node("folder:a@1")], scores(BASE_ROWS))


def test_a_failed_write_leaves_the_old_snapshot_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffgraph.graph.snapshot.pq.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path, [node("folder:b@1")], scores(BASE_ROWS))
    assert current_id(tmp_path) == first
    assert snapshot_ids(tmp_path) == (first,)
    assert not list((tmp_path / "snapshots").glob(".*.part"))


def test_a_snapshot_without_experts_is_whole(tmp_path: Path) -> None:
    write(tmp_path, [], scores([]), prompts=())
    snapshot = open_snapshot(tmp_path)
    assert snapshot.refs == ()
    assert snapshot.embeddings.shape == (0, 384)
    with pytest.raises(SnapshotError, match="no scores"):
        snapshot.reward  # noqa: B018


def test_writers_at_once_leave_whole_snapshots_and_one_pointer(tmp_path: Path) -> None:
    def one(number: int) -> str:
        table = scores(
            [*BASE_ROWS, ("folder:a@1", "cat", 7, number), ("folder:a@1", "dog", 7, 0.0)]
        )
        return write(tmp_path, [node("folder:a@1")], table)

    with ThreadPoolExecutor(4) as pool:
        written = set(pool.map(one, [0, 1, 2, 3, 0, 1]))
    assert len(written) == 4
    assert set(snapshot_ids(tmp_path)) == written
    assert open_snapshot(tmp_path).id in written
    parents = [open_snapshot(tmp_path, name).manifest.parent for name in written]
    assert parents.count(None) == 1  # each but the first knows what was current before it


def test_the_reward_counts_in_what_experts_change_on_one_prompt(tmp_path: Path) -> None:
    # cat: 1 and 5 lie 2 from their mean, dog: 3 and 9 lie 3 from theirs
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    assert open_snapshot(tmp_path).reward.spread == pytest.approx((6.5**0.5,) * 5)


def test_the_reward_of_the_base_alone_counts_in_its_own_spread(tmp_path: Path) -> None:
    write(tmp_path, [], scores(BASE_ROWS))
    assert open_snapshot(tmp_path).reward.spread == pytest.approx((1.0,) * 5)
