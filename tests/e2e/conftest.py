"""A Prefect server for the whole run, and a home that is built once."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.environment import environment
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent.parent
SERVE = """
import sys
from pathlib import Path
from diffgraph.artifacts import write_text
from flows.serving.server import lean_server
folder = Path(sys.argv[1])
with lean_server(folder) as address:
    write_text(folder / "address", address)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def server_address(once, while_running) -> str:
    """A real server for all workers. Nobody reports to it who does not ask for it."""

    def serve(folder: Path) -> None:
        with while_running.open("rb") as until, (folder / "told").open("wb") as told:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVE, folder],
                cwd=ROOT, stdin=until, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip
        address = folder / "address"
        wait_for(lambda: address.exists() or server.poll() is not None)
        assert address.exists(), (folder / "told").read_text()

    return (once("server", serve) / "address").read_text()


@pytest.fixture
def prefect_server(server_address, our_environment) -> Iterator[str]:
    """The commands and flows of this test report to the run's server."""
    with environment(PREFECT_API_URL=server_address):
        yield server_address


@pytest.fixture(scope="session")
def built_home(server_address, hub, once: Callable[..., Path]) -> Path:
    """A home with the small hub's experts, and a graph of them on two reference prompts."""

    def build_in(home: Path) -> None:
        from flows.build_graph import build
        from flows.discover import discover

        with environment(PREFECT_API_URL=server_address, DIFFGRAPH_HOME=home):
            discover(path=hub)
            build(reference_prompts=2)

    return once("home", build_in)


@pytest.fixture
def home(built_home, tmp_path, monkeypatch) -> Path:
    """A copy of that home, to do anything with."""
    copy = Path(shutil.copytree(built_home, tmp_path / "home"))
    monkeypatch.setenv("DIFFGRAPH_HOME", str(copy))
    return copy
