"""How does the home's own MLflow database come to be? Whole: its tables take hundreds of steps."""

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from diffgraph.artifacts import holding, lock_at, new_file, scratch_folder, set_aside

log = logging.getLogger(__name__)

NAME = "mlflow.db"
ARTIFACTS = "mlartifacts"
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""What SQLite says of a file that no second try opens; the last, of a table that is not there."""


def address_of(home: Path) -> str:
    """Return the address of a home's own database."""
    return f"sqlite:///{home.resolve() / NAME}"


def make_database(home: Path) -> None:
    """Make a home's database if it has none; one that is damaged is set aside, and told.

    MLflow makes its tables one by one, and could not go on from some of them.

    Raises:
        StorageError: the home cannot be written.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be made.
    """
    path = home / NAME
    with holding(lock_at(home / "locks" / "mlflow.lock")):
        if path.is_file() and _is_damaged(path):
            aside = set_aside(path)
            log.warning("%s is damaged, is set aside as %s and made again", path, aside.name)
        if path.is_file():
            return
        with scratch_folder(path) as folder:
            _make(folder / NAME, home / ARTIFACTS)
            with new_file(path) as part:
                shutil.copyfile(folder / NAME, part)


def _is_damaged(path: Path) -> bool:
    """Return whether a file is no database, or its tables were never finished."""
    try:
        with closing(sqlite3.connect(path)) as database:
            (versions,) = database.execute("SELECT count(*) FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return error.sqlite_errorcode & 0xFF in DAMAGED  # the rest of the number says more
    return not versions


def _make(path: Path, artifacts: Path) -> None:
    """Make a database as MLflow does."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path.resolve()}", artifacts.resolve().as_uri())
    store.engine.dispose()
