"""What is made once in a run, by the worker that needs it first; the others use it, too."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

FOLDER = pytest.StashKey[Path]()
ALIVE = "alive"


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all workers of a run share.

    The pipe in it is open for as long as the run lasts, however it ends: a process that is to be
    there for all workers reads its end there.
    """
    given = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[FOLDER] = Path(given["shared"])
        return
    made = tempfile.TemporaryDirectory(prefix="diffgraph-shared-", ignore_cleanup_errors=True)
    config.add_cleanup(made.cleanup)
    config.stash[FOLDER] = Path(made.name)
    os.mkfifo(Path(made.name) / ALIVE)
    held = os.open(Path(made.name) / ALIVE, os.O_RDWR)
    config.add_cleanup(lambda: os.close(held))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where that folder is."""
    node.workerinput["shared"] = str(node.config.stash[FOLDER])


@pytest.fixture(scope="session")
def while_running(pytestconfig: pytest.Config) -> Path:
    """A pipe that ends when the run does."""
    return pytestconfig.stash[FOLDER] / ALIVE


@pytest.fixture(scope="session")
def once(pytestconfig: pytest.Config) -> Callable[[str, Callable[[Path], object]], Path]:
    """Give the folder of this name, which is made by the first worker that asks for it.

    Who asks only reads it, or makes a copy. A folder that could not be made whole is made again.
    """
    shared = pytestconfig.stash[FOLDER]

    def give(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return give
