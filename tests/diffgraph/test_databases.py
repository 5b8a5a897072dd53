"""A database that cannot be read is out of the way and not lost; one that can be stays."""

import sqlite3
from contextlib import closing

import pytest

from diffgraph.databases import set_aside_if_damaged


@pytest.fixture
def database(tmp_path):
    """A whole one of several pages."""
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE TABLE runs (name TEXT)")
        opened.execute("CREATE INDEX names ON runs (name)")
        opened.executemany("INSERT INTO runs VALUES (?)", [(f"run {n:05d}",) for n in range(5000)])
        opened.commit()
    return path


def garbage(path):
    path.write_bytes(b"not a database" * 100)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed_inside(path):
    whole = path.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    path.write_bytes(whole[:middle] + bytes(8192) + whole[middle + 8192 :])


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [garbage, cut, changed_inside, a_folder])
def test_a_damaged_one_is_set_aside_with_what_lies_beside_it(database, caplog, damage):
    damage(database)
    journal = database.with_name("runs.db-journal")
    journal.touch()
    set_aside_if_damaged(database)
    assert not database.exists()
    assert not journal.exists(), "it would be played back into the next one"
    assert database.with_name("runs.db.damaged").exists()
    assert "runs.db.damaged" in caplog.text


def test_a_whole_one_stays_and_so_does_one_in_use(database):
    before = database.read_bytes()
    set_aside_if_damaged(database)
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("BEGIN EXCLUSIVE")
        set_aside_if_damaged(database)
    assert database.read_bytes() == before


def test_none_and_an_empty_one_stay(tmp_path):
    set_aside_if_damaged(tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    set_aside_if_damaged(tmp_path / "empty.db")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]
