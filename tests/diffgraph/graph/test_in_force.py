"""A damaged graph is found, told, set aside and made again; nobody is stuck with it."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diffgraph.errors import DamagedSnapshot, SnapshotError
from diffgraph.graph.in_force import mend, open_in_force
from diffgraph.graph.snapshot import current_id, open_snapshot, snapshot_ids
from tests.diffgraph.graph.test_snapshot import ALONE, BASE_ROWS, node, scores, write

Damage = Callable[[Path], None]


def cut(name: str) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def edit(**changes: object) -> Damage:
    """Change the manifest as a person or a program would that does not know better."""

    def damage(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def point_at(content: bytes) -> Damage:
    return lambda folder: (folder.parents[1] / "current").write_bytes(content) and None


def instead_of_the_pointer(make: Damage) -> Damage:
    def damage(folder: Path) -> None:
        pointer = folder.parents[1] / "current"
        pointer.unlink()
        make(pointer)

    return damage


def hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


DAMAGES = {
    "a table cut": cut("scores.parquet"),
    "a table gone": lambda folder: (folder / "nodes.parquet").unlink(),
    "the manifest cut": cut("manifest.json"),
    "the manifest gone": lambda folder: (folder / "manifest.json").unlink(),
    "the manifest empty": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "deep nonsense": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "the folder gone": shutil.rmtree,
    "another sampler": edit(sampler={"steps": 99, "guidance": 1.0}),
    "another family": edit(family="sd15"),
    "another reward": edit(reward=None),
    "others mergeable": edit(mergeable=7, uncalibrated=[]),
    "the pointer empty": point_at(b""),
    "the pointer to nowhere": point_at(b"0123456789abcdef"),
    "the pointer outside": point_at(b"../../etc"),
    "the pointer garbage": point_at(b"\xff\x00"),
    "the pointer a folder": instead_of_the_pointer(lambda path: path.mkdir()),
    "the pointer a pipe": instead_of_the_pointer(os.mkfifo),
    "the pointer a link to nowhere": instead_of_the_pointer(lambda path: path.symlink_to("x")),
    "the pointer a link in a circle": instead_of_the_pointer(lambda path: path.symlink_to(path)),
    "the pointer a name too long for a disk": point_at(b"a" * 400),
    "the pointer without an end": instead_of_the_pointer(hole),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two snapshots, of one and of two experts."""
    write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    write(tmp_path, [node("folder:a@1"), node("folder:b@1")], scores(ALONE + BASE_ROWS))
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_reader_uses_the_newest_whole_graph_and_says_so(
    home: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = snapshot_ids(home)
    damage(home / "snapshots" / newer)
    before = sorted(home.rglob("*"))
    with caplog.at_level(logging.WARNING):
        found = open_in_force(home)
    assert found is not None
    # a pointer that is damaged points at nobody: the newest whole one may be the one it meant
    assert found.id in (older, newer)
    assert open_snapshot(home, found.id).id == found.id
    assert found.id in caplog.messages[-1]
    assert sorted(home.rglob("*")) == before, "a reader changes nothing"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_set_aside_and_made_again(
    home: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = snapshot_ids(home)
    damage(home / "snapshots" / newer)
    with caplog.at_level(logging.WARNING):
        found = mend(home)
    assert found is not None
    assert current_id(home) == found.id
    (told,) = [line for line in caplog.messages if "set aside" in line]
    assert told.count("\n") == 0
    assert found.id in told
    assert list(home.rglob("*.damaged")), "nothing is thrown away"
    again = write(home, [node("folder:a@1"), node("folder:b@1")], scores(ALONE + BASE_ROWS))
    assert again == newer
    assert open_snapshot(home).id == newer
    assert set(snapshot_ids(home)) == {older, newer}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_writer_never_points_at_a_damaged_graph(home: Path, damage: Damage) -> None:
    _, newer = snapshot_ids(home)
    damage(home / "snapshots" / newer)
    assert write(home, [node("folder:a@1"), node("folder:b@1")], scores(ALONE + BASE_ROWS)) == newer
    assert open_snapshot(home).id == newer
    assert open_snapshot(home).nodes.num_rows == 2


def test_damage_upon_damage_keeps_both(home: Path) -> None:
    _, newer = snapshot_ids(home)
    for _ in range(2):
        cut("nodes.parquet")(home / "snapshots" / newer)
        mend(home)
        write(home, [node("folder:a@1"), node("folder:b@1")], scores(ALONE + BASE_ROWS))
    aside = {path.name for path in (home / "snapshots").glob("*.damaged*")}
    assert aside == {f"{newer}.damaged", f"{newer}.damaged-2"}


def test_the_only_graph_being_damaged_is_an_error_to_a_reader_and_none_to_a_writer(
    tmp_path: Path,
) -> None:
    only = write(tmp_path, [node("folder:a@1")], scores(ALONE + BASE_ROWS))
    cut("nodes.parquet")(tmp_path / "snapshots" / only)
    with pytest.raises(DamagedSnapshot, match=r"nodes\.parquet"):
        open_in_force(tmp_path)
    assert mend(tmp_path) is None
    assert current_id(tmp_path) is None


def test_a_clock_that_was_set_back_does_not_make_the_newest_graph_look_old(home: Path) -> None:
    _, second = snapshot_ids(home)
    edit(created_at="2099-01-01T00:00:00Z")(home / "snapshots" / second)
    third = write(home, [node("folder:c@1")], scores(BASE_ROWS))
    assert snapshot_ids(home)[-1] == third


def test_a_graph_of_a_later_version_is_not_taken_for_damaged(home: Path) -> None:
    _, newer = snapshot_ids(home)
    edit(schema_version=99)(home / "snapshots" / newer)
    for use in (open_in_force, mend):
        with pytest.raises(SnapshotError, match="schema version 99") as error:
            use(home)
        assert not isinstance(error.value, DamagedSnapshot)
    assert (home / "snapshots" / newer).is_dir()


def test_a_disk_that_does_not_answer_is_no_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("diffgraph.graph.snapshot.sha256_of", fails)
    with pytest.raises((OSError, SnapshotError)):
        mend(home)
    assert not list((home / "snapshots").glob("*.damaged*"))


def test_without_a_seal_the_content_proves_the_id(home: Path) -> None:
    """Snapshots from before there were seals, and those that were copied without."""
    _, newer = snapshot_ids(home)
    folder = home / "snapshots" / newer
    (folder / "manifest.sha256").unlink()
    assert open_snapshot(home).id == newer
    edit(sampler={"steps": 99, "guidance": 1.0})(folder)
    with pytest.raises(DamagedSnapshot, match=newer):
        open_snapshot(home)


def test_one_damaged_graph_does_not_hide_the_history(home: Path) -> None:
    older, newer = snapshot_ids(home)
    (home / "snapshots" / older / "manifest.json").write_text("{")
    assert snapshot_ids(home) == (newer,)


def test_a_table_swapped_with_its_hash_does_not_pass(home: Path) -> None:
    """Both the table and the hash that the manifest states are changed, as a tool might."""
    from diffgraph.artifacts import sha256_of

    older, newer = snapshot_ids(home)
    folder = home / "snapshots" / newer
    shutil.copy(home / "snapshots" / older / "nodes.parquet", folder / "nodes.parquet")
    facts = json.loads((folder / "manifest.json").read_text())
    facts["files"]["nodes.parquet"] = sha256_of(folder / "nodes.parquet")
    (folder / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(DamagedSnapshot):
        open_snapshot(home)
    (folder / "manifest.sha256").unlink()
    with pytest.raises(DamagedSnapshot):
        open_snapshot(home)
