"""Which runs are alive? Each holds a lock that the system lets go of when it dies, however it dies.

A run that is killed, with its worker and its server or by a power cut, cannot say so: Prefect would
show it as running for ever. So whoever begins next marks the runs whose lock is free as crashed,
and says which. Nothing waits for such a run: no slot of a server is held while a run is at work.
"""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from diffgraph.permissions import make_folder
from diffgraph.settings import Settings
from tasks.limits import free_all_places

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State, TaskRun

log = logging.getLogger(__name__)

ROOMS = ("diffgraph", "tasks", "flows")
TAG = "diffgraph"
"""What every deployment of ours is tagged with, and so its runs."""
AT_WORK = ("RUNNING", "PENDING", "CANCELLING")
"""States of what began, or is about to, and did not end."""
STARTING = timedelta(minutes=15)
"""Nobody's process takes longer to start."""

_found_dead: dict[UUID, tuple[str, ...]] = {}
"""What runs of this process found when they began."""
_levels: dict[str, int] = {}
"""How much our rooms said before the runs of this process began."""
_held: dict[UUID, int] = {}
"""The runs of this process, each with the open file whose lock it holds."""


def hold_life_sign(flow: "Flow[..., Any]", run: "FlowRun", state: "State[Any]") -> None:
    """Show that a run is at work; mark those that died without a word. For `on_running`."""
    if not _held:
        _levels.update({room: logging.getLogger(room).level for room in ROOMS})
        for room in ROOMS:
            logging.getLogger(room).setLevel(logging.INFO)  # the server's page shows what we say
    signs = _signs()
    make_folder(signs)
    file = os.open(signs / str(run.id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(file, b".")  # an empty file is of a run that is about to take its lock
    _held[run.id] = file
    if run.parent_task_run_id is None:
        _found_dead[run.id] = tuple(mark_the_dead(apart_from=run.id))


def found_dead() -> tuple[str, ...]:
    """Return a line about each run that the run at work found dead when it began."""
    from prefect.runtime import flow_run

    return _found_dead.get(UUID(flow_run.get_id()), ())


def drop_life_sign(flow: "Flow[..., Any]", run: "FlowRun", state: "State[Any]") -> None:
    """Forget a run that has ended and could say so. For all ways to end."""
    file = _held.pop(run.id, None)
    if file is not None:
        (_signs() / str(run.id)).unlink(missing_ok=True)
        os.close(file)
    if not _held:
        for room, level in _levels.items():
            logging.getLogger(room).setLevel(level)


def mark_the_dead(apart_from: UUID | None = None) -> list[str]:
    """Mark the runs that died without a word as crashed; return a line about each."""
    from prefect.client.orchestration import get_client

    lines = []
    with get_client(sync_client=True) as client:
        for run in _unfinished(client):
            if run.id != apart_from and _is_dead(run):
                lines.append(_mark(client, run))
        for sign in _signs().glob("*"):
            with _free(sign) as is_free:
                if is_free:
                    sign.unlink(missing_ok=True)
        if not any(run.id != apart_from for run in _running(client)):
            free_all_places(client)  # whoever held one is dead
    for line in lines:
        log.warning(line)
    return lines


def _unfinished(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return the runs that are said to be at work and are ours: by their sign, or by their tag."""
    from prefect.client.schemas import filters

    at_work = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[*AT_WORK]))
    signs = [UUID(sign.name) for sign in _signs().glob("*-*-*-*-*")]
    ours = (
        filters.FlowRunFilter(state=at_work, id=filters.FlowRunFilterId(any_=signs)),
        filters.FlowRunFilter(state=at_work, tags=filters.FlowRunFilterTags(all_=[TAG])),
    )
    found = {run.id: run for one in ours for run in client.read_flow_runs(flow_run_filter=one)}
    return list(found.values())


def _running(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return some of the runs that are said to be at work, whoever's they are."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    running = filters.FlowRunFilterStateType(any_=[StateType.RUNNING])
    wanted = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=running))
    return client.read_flow_runs(flow_run_filter=wanted, limit=2)


def _is_dead(run: "FlowRun") -> bool:
    sign = _signs() / str(run.id)
    if sign.exists():
        with _free(sign) as is_free:
            return is_free
    # it was killed before it could show a sign, or it works for another home
    host, _, process = (run.infrastructure_pid or "").rpartition(":")
    if host == socket.gethostname() and process.isdecimal():
        return not _is_process(int(process))
    since = run.state.timestamp if run.state else None
    is_pending = run.state is not None and run.state.is_pending()
    return is_pending and since is not None and datetime.now(UTC) - since > STARTING


def _mark(client: "SyncPrefectClient", run: "FlowRun") -> str:
    """Give a dead run the state it could not give itself; return a line about it."""
    from prefect.states import Cancelled, Crashed

    began = f"{run.start_time:%Y-%m-%d %H:%M} UTC" if run.start_time else "an unknown time"
    line = f"run {run.name} of {began} died without a word: it was killed, or its machine stopped"
    is_cancelling = run.state is not None and run.state.is_cancelling()
    end = Cancelled if is_cancelling else Crashed
    state: State[Any] = end(message=line)
    client.set_flow_run_state(run.id, state, force=True)
    for task_run in _unfinished_tasks(client, run):
        client.set_task_run_state(task_run.id, end(message="its run died"), force=True)
    return line


def _unfinished_tasks(client: "SyncPrefectClient", run: "FlowRun") -> "list[TaskRun]":
    """Return the tasks of a run that are said to be at work, or to begin soon."""
    from prefect.client.schemas import filters

    at_work = filters.TaskRunFilterState(
        type=filters.TaskRunFilterStateType(any_=[*AT_WORK, "SCHEDULED"])
    )
    ours = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id]))
    return client.read_task_runs(
        flow_run_filter=ours, task_run_filter=filters.TaskRunFilter(state=at_work)
    )


@contextmanager
def _free(sign: Path) -> Iterator[bool]:
    """Yield whether no process holds a life sign; none can take it meanwhile."""
    try:
        file = os.open(sign, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(file).st_size > 0
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _is_process(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signs() -> Path:
    return Settings().home / "prefect" / "alive"
