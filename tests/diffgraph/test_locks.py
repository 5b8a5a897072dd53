"""No two processes do the same work in one place at once; none waits for a dead one."""

import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from diffgraph.errors import DiffgraphError, StorageError
from diffgraph.locks import exclusive
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import sys
from pathlib import Path
from diffgraph.locks import exclusive
with exclusive(Path(sys.argv[1]), "build"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Watch(logging.Handler):
    """Records when a process waits, and the message."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.waits.set()


@pytest.fixture
def watch():
    handler = Watch()
    logging.getLogger("diffgraph.locks").addHandler(handler)
    yield handler
    logging.getLogger("diffgraph.locks").removeHandler(handler)


@pytest.fixture
def holder(tmp_path: Path):
    """Another process, which holds the lock of `build` until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def build(folder: Path) -> str:
    with exclusive(folder, "build"):
        return "built"


@pytest.mark.parametrize("ends", ["killed", "ended"])
def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_has_ended(
    tmp_path, holder, watch, ends
):
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(build, tmp_path)
        assert watch.waits.wait(PATIENCE)
        assert not second.done()
        assert f"waiting for build by process {holder.pid} on " in watch.lines[0]
        if ends == "killed":
            holder.send_signal(signal.SIGKILL)
        else:
            holder.stdin.close()
        assert second.result(20) == "built"
    assert len(watch.lines) == 1, "who waits says so once"


def test_what_a_killed_holder_left_says_nothing_to_the_next(tmp_path, holder, watch):
    holder.kill()
    holder.wait()
    assert build(tmp_path) == "built"
    assert not watch.lines
    assert [file.name for file in tmp_path.iterdir()] == ["build.lock"]


def test_other_work_and_other_homes_do_not_wait(tmp_path, holder, watch):
    with exclusive(tmp_path, "train"):
        assert build(tmp_path / "another") == "built"
    assert not watch.lines


def test_the_turn_ends_with_an_error_too(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path, "build"):
        1 / 0  # noqa: B018
    assert build(tmp_path) == "built"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "locks").write_text("in the way")
    with pytest.raises(StorageError, match="locks"):
        build(tmp_path / "locks")


@pytest.mark.parametrize("work", ["build", "train", "evaluate", "refresh", "discover"])
def test_each_stage_takes_its_turn(work, tmp_path, watch, monkeypatch):
    """Each is asked for something that it refuses, once its turn has come."""
    from flows import build_graph, discover, evaluate, refresh, train_planner

    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path))
    refused = {
        "build": lambda: build_graph.build.fn(),
        "train": lambda: train_planner.train.fn(like="nobody"),
        "evaluate": lambda: evaluate.evaluate.fn(report=Path("a.txt")),
        "refresh": lambda: refresh.refresh.fn(like="nobody"),
        "discover": lambda: discover.discover.fn(source="nowhere"),
    }[work]
    with ThreadPoolExecutor(1) as pool:
        with exclusive(tmp_path / "locks", work):
            second = pool.submit(refused)
            assert watch.waits.wait(PATIENCE)
            assert not second.done()
        with pytest.raises(DiffgraphError):
            second.result(30)


def test_as_many_work_at_once_as_may(tmp_path, watch):
    with exclusive(tmp_path, "run", at_once=2), ThreadPoolExecutor(1) as pool:
        with exclusive(tmp_path, "run", at_once=2):
            third = pool.submit(in_turn, tmp_path)
            assert watch.waits.wait(PATIENCE)
        third.result(PATIENCE)
    assert "waiting for run by process" in watch.lines[0]
    assert not list(tmp_path.glob("*.json")), "nobody holds one"


def in_turn(folder: Path) -> None:
    with exclusive(folder, "run", at_once=2):
        pass
