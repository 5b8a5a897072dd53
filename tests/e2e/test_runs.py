"""What does a server know of a run? Its lines and tables, no secret; runs of workers take turns."""

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.states import Running

from diffgraph.locks import LOCKS, exclusive
from diffgraph.results import Result, rows
from diffgraph.secrets import keep_secret
from flows.serving.publishing import publish
from flows.serving.watched import flow
from tests.waiting import PATIENCE, wait_for

SECRET = "a-secret-token"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path))
    return tmp_path


class Found(Result):
    """A line and a table."""

    def lines(self):
        yield "1 refused:"
        yield rows(("expert", "reason"), [("hub:1", "UnsafeFile")])


@flow(name="failing")
def failing() -> None:
    """Fail as a library does, with what it was given."""
    raise ValueError(f"cannot read https://hub/?token={SECRET}")


@flow(name="telling")
def telling(key: str) -> str | None:
    """Find something, and say a word of our own."""
    logging.getLogger("flows.anything").info("a word of ours")
    publish(Found(), key=key)
    return flow_run.get_id()


def lines_of(run: str) -> list[str]:
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run)]))
    with get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(log_filter=of_run)]


def test_a_flow_that_fails_tells_no_secret():
    keep_secret(SECRET)
    state = failing(return_state=True)
    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(state.state_details.flow_run_id).state.message
    assert "ValueError" in kept
    assert "***" in kept
    assert SECRET not in kept


def test_lines_and_tables_are_in_the_log_and_the_artifact_of_a_run():
    key = f"test-{uuid4()}"
    run = telling(key)
    wanted = {"a word of ours", "1 refused:", "hub:1  UnsafeFile"}
    wait_for(lambda: wanted <= set(lines_of(run)))
    with get_client(sync_client=True) as client:
        answer = client.request("GET", f"/artifacts/{key}/latest").json()
    assert answer["flow_run_id"] == run
    assert "1 refused:" in answer["data"]
    assert "| hub:1 | UnsafeFile |" in answer["data"]


def test_runs_that_any_worker_starts_take_turns(own_home, caplog):
    """A plain worker of Prefect takes what there is; a GPU holds one."""

    @flow(name=f"deployed-{uuid4()}")
    def deployed() -> str:
        return "done"

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(deployed)
        deployment = client.create_deployment(flow_id, name="deployed")
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, Running(), force=True)
        run = client.read_flow_run(run.id)

    with ThreadPoolExecutor(1) as pool:
        with exclusive(own_home / LOCKS / socket.gethostname(), "run"):
            assert deployed() == "done", "whoever runs it by hand does not wait"
            waiting = pool.submit(run_flow, deployed, flow_run=run)
            wait_for(lambda: "waiting for run by process" in caplog.text or waiting.done())
            assert not waiting.done()
        assert waiting.result(PATIENCE) == "done"
