"""A run that is killed is marked by whoever begins next; nobody waits for it."""

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.states import Cancelled, Cancelling, Pending

from flows.serving import alive
from flows.serving.alive import mark_the_dead
from flows.serving.watched import flow
from tasks import limits
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent.parent

# a flow in a flow, as the nightly run is
ENDLESS = """
import time
from prefect.runtime import flow_run
from flows.serving.watched import flow
from tasks.policies import LOCAL, task

@task(**LOCAL)
def work(outer, inner):
    print(outer, inner, flush=True)
    time.sleep(600)

@flow(name="inner")
def inner(outer):
    work(outer, flow_run.get_id())

@flow(name="outer")
def outer():
    inner(flow_run.get_id())

outer()
"""


@pytest.fixture(autouse=True)
def at_home(prefect_server, monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path / "home"))
    # other tests report to the same server meanwhile
    monkeypatch.setattr(alive, "TAG", f"test-{uuid4()}")
    monkeypatch.setattr(limits, "DOWNLOADS", f"test-{uuid4()}")
    return tmp_path / "home"


@pytest.fixture
def at_work():
    """A process that is in the middle of a run; yields it and the ids of its two runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process, tuple(map(UUID, process.stdout.readline().split()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@flow(name="next")
def next_run() -> None:
    """Do nothing: what happens, happens before."""


def set_state(run: UUID, state) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def state_of(run: UUID):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run).state


def tasks_of(run: UUID) -> list:
    of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run]))
    with get_client(sync_client=True) as client:
        return client.read_task_runs(flow_run_filter=of_run)


def occupy(places: int) -> None:
    """Take places for downloads, as a run did that was killed."""
    limits.make_limit(limits.DOWNLOADS, 2)
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(
            limits.DOWNLOADS, GlobalConcurrencyLimitUpdate(active_slots=places)
        )


def places_taken() -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(limits.DOWNLOADS).active_slots


def test_a_killed_run_is_marked_by_the_next_one_and_told(at_work, at_home, caplog):
    process, runs = at_work
    next_run()
    assert [state_of(run).type for run in runs] == ["RUNNING", "RUNNING"], "it is alive"

    # a task's state is an event, and takes a while
    wait_for(lambda: [one.state.type for one in tasks_of(runs[1]) if one.state] == ["RUNNING"])

    process.send_signal(signal.SIGKILL)
    process.wait()
    next_run()
    for run in runs:
        assert state_of(run).is_crashed()
        assert "died without a word" in state_of(run).message
    (work,) = tasks_of(runs[1])
    assert work.state.is_crashed(), "and so is what it was at"
    told = [record.message for record in caplog.records if record.name == "flows.serving.alive"]
    assert len(told) == 2
    assert not list((at_home / "prefect" / "alive").iterdir()), "no sign is left"


def test_a_run_that_ends_leaves_no_sign(at_home):
    next_run()
    assert not list((at_home / "prefect" / "alive").iterdir())
    assert mark_the_dead() == []


def test_a_run_that_was_being_cancelled_when_it_died_is_cancelled(at_work):
    process, (outer, inner) = at_work
    occupy(1)
    mark_the_dead()
    assert places_taken() == 1, "what a living run holds stays its own"
    set_state(outer, Cancelling())
    process.kill()
    process.wait()
    mark_the_dead()
    assert state_of(outer).is_cancelled()
    assert state_of(inner).is_crashed()


def claimed(infrastructure: str | None) -> UUID:
    """Return a run that a worker has claimed and that has no sign."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(next_run, tags=[alive.TAG], state=Pending())
        if infrastructure:
            client.update_flow_run(run.id, infrastructure_pid=infrastructure)
    return run.id


def test_a_run_whose_process_died_while_it_started_is_marked():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    dead, living = claimed(f"{here}:{gone.pid}"), claimed(f"{here}:{os.getpid()}")
    elsewhere = claimed(f"another-{here}:{gone.pid}")
    mark_the_dead()
    assert state_of(dead).is_crashed()
    assert state_of(living).is_pending()
    assert state_of(elsewhere).is_pending(), "nobody here can know"
    for run in (living, elsewhere):
        set_state(run, Cancelled())


def test_a_run_that_a_worker_claimed_and_never_started_is_marked_after_a_while(monkeypatch):
    forgotten = claimed(None)
    mark_the_dead()
    assert state_of(forgotten).is_pending(), "it may be about to start"
    monkeypatch.setattr(alive, "STARTING", timedelta(0))
    mark_the_dead()
    assert state_of(forgotten).is_crashed()


def test_what_a_killed_run_held_is_free_again(monkeypatch):
    """A server that was killed, too, has forgotten who held a place: nobody would give it back."""
    monkeypatch.setattr(alive, "_running", lambda _: [])  # of other tests
    occupy(2)
    mark_the_dead()
    assert places_taken() == 0
