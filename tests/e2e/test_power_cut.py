"""Worker, flow and server are killed at once, as by a power cut: the next night runs, and tells."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment

from diffgraph.graph.snapshot import current_id
from diffgraph.homes import SEEN, family_folder, write_pointer
from tests.e2e.conftest import ROOT, SERVE
from tests.environment import environment
from tests.waiting import PATIENCE, wait_for

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
NIGHTLY = "refresh/nightly-refresh"


@pytest.fixture
def begin(tmp_path, our_environment) -> Iterator[Callable[..., psutil.Popen]]:
    """Start a process whose words go to a file; what is left of all at the end is killed."""
    begun: list[psutil.Popen] = []

    def start(words: Path, *command: str | Path, stdin: int = subprocess.DEVNULL) -> psutil.Popen:
        with words.open("ab") as told:
            begun.append(psutil.Popen(command, cwd=ROOT, stdin=stdin, stdout=told, stderr=told))
        return begun[-1]

    yield start
    cut_the_power(*begun)


def cut_the_power(*processes: psutil.Popen) -> None:
    """Kill processes and all that they started, at once."""
    found = [process for process in processes if process.is_running()]
    found += [child for process in found for child in process.children(recursive=True)]
    for process in found:
        process.send_signal(signal.SIGSTOP)  # so that none sees another one die
    for process in found:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, PATIENCE)


@contextmanager
def at_night(
    folder: Path, home: Path, begin: Callable[..., psutil.Popen]
) -> Iterator[tuple[psutil.Popen, ...]]:
    """A server on the records in `folder`, and a worker; this process reports to the same."""
    address, words = folder / "address", folder / "told"
    address.unlink(missing_ok=True)
    server = begin(words, sys.executable, "-c", SERVE, folder, stdin=subprocess.PIPE)
    wait_for(lambda: address.exists() or not server.is_running())
    settings: Mapping[str, object] = {
        "PREFECT_API_URL": address.read_text(),
        "DIFFGRAPH_HOME": home,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PWD": ROOT,
    }
    with environment(**settings):
        worker = begin(folder / "worker", sys.executable, "-m", "flows.cli", "worker")
        yield server, worker


def tonight(hub: Path, timeout: float) -> object:
    small = {"path": str(hub), "reference_prompts": 2, "steps": 1, "training_prompts": 16}
    return run_deployment(NIGHTLY, parameters=small, timeout=timeout, poll_interval=0.5)


def state_of(run: object) -> object:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id).state


def test_the_night_after_a_power_cut_runs_and_tells_of_it(built_home, hub, tmp_path, begin):
    home = Path(shutil.copytree(built_home, tmp_path / "home"))
    # nothing changed since the planner was trained: the night need not do it again
    write_pointer(family_folder(home, "emoji64") / SEEN, current_id(family_folder(home, "emoji64")))
    whole, signs = current_id(family_folder(home, "emoji64")), home / "prefect" / "alive"
    with at_night(tmp_path, home, begin) as processes:
        wait_for(lambda: b"started" in (tmp_path / "worker").read_bytes())  # it has made the pool
        deploy = [*PREFECT, "deploy", "--name", "nightly-refresh"]
        subprocess.run(deploy, cwd=ROOT, check=True, capture_output=True)
        lost = tonight(hub, timeout=0)
        wait_for(lambda: (signs / str(lost.id)).exists())
        cut_the_power(*processes)

    with at_night(tmp_path, home, begin) as processes:
        night = tonight(hub, timeout=PATIENCE)
        assert night.state.is_completed(), night.state
        assert state_of(lost).is_crashed()
        assert f"run {lost.name}" in (tmp_path / "worker").read_text()
        assert "died without a word" in state_of(lost).message
        cut_the_power(*processes)
    assert current_id(family_folder(home, "emoji64")) == whole
    assert not list(signs.iterdir())
