"""The deployments of prefect.yaml, on a real server, carried out by a real worker."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError

from diffgraph.experts.library import Library
from diffgraph.graph.snapshot import current_id
from diffgraph.homes import SEEN, family_folder, write_pointer
from tests.environment import environment
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent.parent
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def deployed(server_address, built_home, tmp_path_factory) -> Iterator[Path]:
    """Everything in prefect.yaml is deployed and a worker waits; returns the home it works in."""
    home = Path(shutil.copytree(built_home, tmp_path_factory.mktemp("deployed") / "home"))
    settings = {
        **os.environ,
        "DIFFGRAPH_HOME": str(home),
        "PREFECT_API_URL": server_address,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PWD": str(ROOT),
    }
    # nothing changed since the planner was trained: the night need not do it again
    family = family_folder(home, "emoji64")
    write_pointer(family / SEEN, current_id(family))
    with environment(PREFECT_API_URL=server_address), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="diffgraph", type="process"))
    subprocess.run(
        [*PREFECT, "deploy", "--all"], cwd=ROOT, env=settings, check=True, capture_output=True
    )
    worker = subprocess.Popen(
        [Path(sys.executable).with_name("diffgraph"), "worker"],
        cwd=ROOT, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield home
    worker.terminate()
    try:
        worker.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def run(name: str, **parameters: object) -> None:
    """Start a deployment's run and wait until the worker has carried it out."""
    done = run_deployment(name, parameters=parameters, timeout=PATIENCE, poll_interval=0.5)
    assert done.state.is_completed(), done.state


def read_deployment(name: str):
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name)


def test_every_flow_of_the_file_is_there():
    told = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    names = {deployment["name"] for deployment in told["deployments"]}
    assert names == {"nightly-refresh", "train-planner", "batch-generate"}
    for deployment in told["deployments"]:
        file, _, flow = deployment["entrypoint"].partition(":")
        assert f"def {flow}(" in (ROOT / file).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("deployed")
def test_the_nightly_refresh_is_scheduled():
    (schedule,) = read_deployment("refresh/nightly-refresh").schedules
    assert schedule.active
    assert schedule.schedule.cron == "17 3 * * *"


@pytest.mark.slow
@pytest.mark.usefixtures("deployed")
def test_the_page_shows_typed_parameters():
    schema = read_deployment("train-planner/train-planner").parameter_openapi_schema
    parameters = schema["properties"]
    assert parameters["seed"]["type"] == "integer"
    assert parameters["normalisation"]["enum"] == ["softmax", "strength", "none"]
    assert "softmax is the paper's" in parameters["normalisation"]["description"]
    needed = read_deployment("batch-generate/batch-generate").parameter_openapi_schema
    assert set(needed["required"]) == {"prompts", "out"}


@pytest.mark.slow
@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(("name", "value"), [("steps", -5), ("steps", 0), ("snapshot", "../x")])
def test_a_run_that_cannot_be_meant_is_refused_by_its_field(name, value):
    with pytest.raises(PrefectHTTPStatusError, match=f"'{name}'"):
        run_deployment("train-planner/train-planner", parameters={name: value}, timeout=0)


@pytest.mark.slow
@pytest.mark.usefixtures("deployed")
def test_a_run_with_what_its_form_cannot_judge_fails_with_one_line(tmp_path):
    nowhere, out = tmp_path / "nowhere.txt", tmp_path / "out"
    asked = {"prompts": str(nowhere), "out": str(out)}
    done = run_deployment(
        "batch-generate/batch-generate", parameters=asked, timeout=PATIENCE, poll_interval=0.5
    )
    assert done.state.is_failed(), done.state
    (line,) = done.state.message.splitlines()
    assert "MissingInput: " in line
    assert str(nowhere) in line
    assert not out.exists()


@pytest.mark.slow
def test_a_worker_carries_out_all_three(deployed, hub, tmp_path):
    started = time.time()
    run("refresh/nightly-refresh", path=str(hub), reference_prompts=2, steps=1, training_prompts=16)
    assert current_id(family_folder(deployed, "emoji64"))
    assert len(Library(deployed).experts("ready")) == 4

    run("train-planner/train-planner", steps=1, prompts=16, seed=1)
    configs = [
        json.loads(file.read_text())
        for file in (family_folder(deployed, "emoji64") / "planners").glob("*/config.json")
    ]
    assert any(config["seed"] == 1 for config in configs)
    assert (deployed / "mlflow.db").stat().st_mtime > started

    (tmp_path / "prompts.txt").write_text("a cat, pencil sketch\na dog at night\n")
    out = tmp_path / "out"
    run("batch-generate/batch-generate", prompts=str(tmp_path / "prompts.txt"), out=str(out))
    table = pq.read_table(out / "results.parquet").to_pylist()
    assert [row["error"] for row in table] == ["", ""]
    assert all((out / row["file"]).is_file() for row in table)
