"""How does the home's own MLflow database come to be? Whole: its tables take hundreds of steps."""

import shutil
from pathlib import Path

from diffgraph.artifacts import holding, lock_at, new_file, scratch_folder
from diffgraph.databases import set_aside_if_damaged

NAME = "mlflow.db"
ARTIFACTS = "mlartifacts"


def address_of(home: Path) -> str:
    """Return the address of a home's own database."""
    return f"sqlite:///{home.resolve() / NAME}"


def make_database(home: Path) -> None:
    """Make a home's database if it has none; one that is damaged is set aside, and logged.

    MLflow makes its tables one by one, and could not go on from some of them.

    Raises:
        StorageError: the home cannot be written.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be made.
    """
    path = home / NAME
    with holding(lock_at(home / "locks" / "mlflow.lock")):
        set_aside_if_damaged(path, filled="alembic_version")
        if path.is_file():
            return
        with scratch_folder(path) as folder:
            _make(folder / NAME, home / ARTIFACTS)
            with new_file(path) as part:
                shutil.copyfile(folder / NAME, part)


def _make(path: Path, artifacts: Path) -> None:
    """Make a database as MLflow does."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path.resolve()}", artifacts.resolve().as_uri())
    store.engine.dispose()
