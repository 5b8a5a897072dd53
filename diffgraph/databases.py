"""Is a database of SQLite whole? Records of runs are in such files; a damaged one is set aside."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from diffgraph.artifacts import set_aside

log = logging.getLogger(__name__)

BESIDE = ("-journal", "-wal", "-shm")
"""How the files end that SQLite puts beside a database: in another one they would do damage."""


def set_aside_if_damaged(database: Path, filled: str = "") -> None:
    """Give a database that SQLite cannot read another name, and say so: a new one is made.

    Args:
        database: its file, which need not be there.
        filled: a table that has rows as soon as the database is finished.

    Raises:
        StorageError: it cannot be renamed.
    """
    reason = _damage(database, filled)
    if reason is None:
        return
    aside = set_aside(database)
    for end in BESIDE:
        if (beside := database.with_name(database.name + end)).exists():
            set_aside(beside)
    log.warning("%s is damaged (%s): it is set aside as %s, and made again",
                database, reason, aside.name)  # fmt: skip


def _damage(database: Path, filled: str) -> str | None:
    """Return what is wrong with a database; None for one that is whole, in use, or not there."""
    if not database.exists():
        return None
    if not database.is_file():
        return "it is no file"
    try:
        with closing(sqlite3.connect(database)) as opened:
            (found,) = opened.execute("PRAGMA quick_check(1)").fetchone()
            if found == "ok" and filled and not _has_rows(opened, filled):
                return "it was never finished"
    except sqlite3.OperationalError:
        return None  # locked or not to be opened: whoever uses it says so
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else str(found).splitlines()[0]


def _has_rows(opened: sqlite3.Connection, table: str) -> bool:
    if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return False
    return opened.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None
