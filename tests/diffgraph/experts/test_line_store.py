"""Thousands of texts by key: appended, torn, rewritten, read by others meanwhile."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from diffgraph.errors import StorageError
from diffgraph.experts.line_store import LineStore
from tests.waiting import PATIENCE


def key(number: int) -> str:
    return f"{number:064x}"


def text(number: int, size: int = 10) -> str:
    return json.dumps({"number": number, "text": "ü" * size})


@pytest.fixture
def store(tmp_path: Path) -> LineStore:
    return LineStore(tmp_path / "texts.jsonl")


def numbers(store: LineStore, up_to: int) -> list[int]:
    """Which of the first texts are kept, and are what they should be."""
    found = [(n, store.get(key(n))) for n in range(up_to)]
    return [n for n, value in found if value is not None and json.loads(value)["number"] == n]


def test_what_was_added_is_found_by_all(store: LineStore) -> None:
    other = LineStore(store.path)
    assert (other.get(key(1)), key(1) in other, len(other)) == (None, False, 0)
    store.add([(key(1), text(1)), (key(2), text(2))])
    assert numbers(other, 4) == numbers(store, 4) == [1, 2]
    other.add([(key(3), text(3))])
    assert numbers(store, 4) == [1, 2, 3]
    assert len(store) == 3


def test_every_line_is_json(store: LineStore) -> None:
    store.add((key(n), text(n)) for n in range(3))
    rows = [json.loads(line) for line in store.path.read_text().splitlines()]
    assert [row["key"] for row in rows] == [key(0), key(1), key(2)]
    assert rows[2]["value"]["number"] == 2


def test_what_is_known_is_not_written_again(store: LineStore) -> None:
    store.add([(key(1), text(1))])
    size = store.path.stat().st_size
    store.add([(key(1), text(1))])
    LineStore(store.path).add([(key(1), text(1))])
    assert store.path.stat().st_size == size


@pytest.mark.parametrize("torn", [b'{"key":"00', b'{"key":"' + b"0" * 64, b"\x00\xff"])
def test_a_line_torn_by_a_crash_is_dropped(store: LineStore, torn: bytes) -> None:
    store.add([(key(1), text(1))])
    with store.path.open("ab") as file:
        file.write(torn)
    reader = LineStore(store.path)
    assert numbers(reader, 3) == [1]
    LineStore(store.path).add([(key(2), text(2))])
    assert numbers(reader, 3) == [1, 2]
    assert torn not in store.path.read_bytes().split(b"\n")


@pytest.mark.parametrize("line", [b"", b"garbage", b'{"key":"zz","value":1}', b'["key"]'])
def test_a_damaged_line_hides_no_other(store: LineStore, line: bytes) -> None:
    store.add([(key(1), text(1))])
    with store.path.open("ab") as file:
        file.write(line + b"\n")
    store.add([(key(2), text(2))])
    assert numbers(LineStore(store.path), 3) == [1, 2]


def test_readers_survive_a_rewrite(store: LineStore) -> None:
    store.add((key(n), text(n)) for n in range(9))
    reader = LineStore(store.path)
    assert numbers(reader, 9) == list(range(9))
    store.keep_only({key(3), key(7)})
    assert (reader.get(key(7)), len(reader)) == (store.get(key(7)), 2)
    assert reader.get(key(4)) is None
    reader.add([(key(4), text(4))])
    assert numbers(store, 9) == [3, 4, 7]


def test_a_file_that_is_gone_is_empty(store: LineStore) -> None:
    store.add([(key(1), text(1))])
    store.path.unlink()
    assert store.get(key(1)) is None
    assert len(store) == 0
    store.add([(key(2), text(2))])
    assert numbers(store, 3) == [2]


def test_a_full_disk_leaves_it_as_it_was(store: LineStore) -> None:
    store.add([(key(1), text(1))])
    before = store.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(StorageError, match=r"texts\.jsonl"):
            store.add([(key(2), text(2, 1000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.path.read_bytes() == before
    assert numbers(store, 3) == [1]


@pytest.mark.parametrize(("bad", "value"), [("../../x", "1"), ("", "1"), (key(1), "1\n2")])
def test_only_hashes_and_lines_are_kept(store: LineStore, bad: str, value: str) -> None:
    with pytest.raises(ValueError, match="hash"):
        store.add([(bad, value)])
    assert not store.path.exists() or not os.path.getsize(store.path)


def test_processes_add_at_once(store: LineStore) -> None:
    program = """
import sys
from pathlib import Path
from diffgraph.experts.line_store import LineStore
store = LineStore(Path(sys.argv[1]))
for n in range(int(sys.argv[2]), 200, 2):
    store.add([(f"{n:064x}", '{"number": %d}' % n)])
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", program, store.path, first]) for first in ("0", "1")
    ]
    assert [run.wait(PATIENCE) for run in runs] == [0, 0]
    assert numbers(store, 201) == list(range(200))
    assert store.path.read_bytes().count(b"\n") == 200


GARBAGE = [b"\0" * 500, b"", b"{}", b'{"key":"zz","value":1}', b'{"key":"' + b"0" * 64, b"\xff"]


@pytest.mark.parametrize("line", GARBAGE)
def test_a_damaged_line_is_told_and_the_others_are_read(
    store: LineStore, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.add((key(n), text(n)) for n in range(3))
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(lines[0] + line + b"\n" + lines[1] + lines[2])
    other = LineStore(store.path)
    assert numbers(other, 4) == [0, 1, 2]
    assert "1 lines are damaged" in caplog.text
    other.add([(key(3), text(3))])
    assert numbers(LineStore(store.path), 4) == [0, 1, 2, 3]


def test_a_text_that_is_damaged_is_kept_again(store: LineStore) -> None:
    store.add((key(n), text(n)) for n in range(3))
    data = store.path.read_bytes()
    store.path.write_bytes(data.replace(b'"number": 1', b'"num\0er": 1'))
    other = LineStore(store.path)
    assert not other.is_whole(key(1))
    assert other.is_whole(key(2))
    other.add((key(n), text(n)) for n in range(3))
    assert numbers(LineStore(store.path), 3) == [0, 1, 2]
    assert store.path.stat().st_size < len(data) * 1.5, "those that are whole are not written again"
