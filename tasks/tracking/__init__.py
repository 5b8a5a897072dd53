"""What is remembered of a run? Parameters, curves, metrics, the report and the planner, in MLflow.

The only place that talks to MLflow. Without `DIFFGRAPH_MLFLOW_TRACKING_URI` it is SQLite in the
home folder: nobody has to start a server, and `mlflow ui` shows it.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diffgraph.artifacts import storing
from diffgraph.permissions import make_folder, private_umask
from tasks.policies import NETWORK, task

PLANNER = "diffgraph-planner"
"""The name planners are registered under."""

CHAMPION = "champion"
METRICS_A_CALL = 1000  # MLflow's own limit
PARAM_LENGTH = 500

History = Sequence[Mapping[str, float]]
"""One row a step: `step` and whatever was measured."""


class Recorded(BaseModel, frozen=True):
    """Where a run is found again."""

    run_id: str
    uri: str
    version: str = ""
    champion: bool = False


@task(**NETWORK, task_run_name="record training of {planner}")
def record_training(
    home: Path,
    uri: str | None,
    params: Mapping[str, Any],
    history: History,
    metrics: Mapping[str, float],
    planner: Path,
    promote: bool,
) -> Recorded:
    """Record a training run, register its planner, and give it the alias if it won."""
    with _run(home, uri, "train") as (mlflow, run_id):
        mlflow.log_params(_flat(params))
        _log_history(run_id, history)
        mlflow.log_metrics(dict(metrics))
        model = mlflow.pyfunc.log_model(
            name="planner",
            python_model=str(Path(__file__).with_name("planner_model.py")),
            artifacts={"planner": str(planner)},
            pip_requirements=["diffgraph"],
        )
        version = _register(mlflow.MlflowClient(), model, run_id, promote)
        found = mlflow.get_tracking_uri()
    return Recorded(run_id=run_id, uri=found, version=version, champion=promote)


@task(**NETWORK, task_run_name="record evaluation")
def record_evaluation(
    home: Path,
    uri: str | None,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
) -> Recorded:
    """Record an evaluation with its report."""
    with _run(home, uri, "evaluate") as (mlflow, run_id):
        mlflow.log_params(_flat(params))
        mlflow.log_metrics(dict(metrics))
        for file in files:
            mlflow.log_artifact(str(file))
        found = mlflow.get_tracking_uri()
    return Recorded(run_id=run_id, uri=found)


@task(**NETWORK, task_run_name="record what {model} cost")
def record_spending(
    home: Path, uri: str | None, model: str, instructions: str, spending: Mapping[str, float | None]
) -> Recorded:
    """Record the tokens and dollars that a language model's answers took."""
    with _run(home, uri, "agent") as (mlflow, run_id):
        mlflow.log_params({"model": model, "instructions": instructions})
        mlflow.log_metrics({name: float(v) for name, v in spending.items() if v is not None})
        found = mlflow.get_tracking_uri()
    return Recorded(run_id=run_id, uri=found)


@contextmanager
def _run(home: Path, uri: str | None, experiment: str) -> Iterator[tuple[Any, str]]:
    """Open a run in an experiment that keeps its files in the home folder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.utils.logging_utils import disable_logging

    disable_logging()
    logging.getLogger("alembic").setLevel(logging.ERROR)
    with storing(home):
        make_folder(home)
    with nullcontext() if uri else private_umask(home):
        address = uri or f"sqlite:///{home.resolve()}/mlflow.db"
        mlflow.set_tracking_uri(address)
        name = f"diffgraph-{experiment}"
        if mlflow.get_experiment_by_name(name) is None:
            place = None if uri else (home.resolve() / "mlartifacts").as_uri()
            mlflow.create_experiment(name, artifact_location=place)
        mlflow.set_experiment(name)
        with mlflow.start_run() as run:
            yield mlflow, str(run.info.run_id)


def _register(client: Any, model: Any, run_id: str, promote: bool) -> str:
    """Give a logged planner a version and, if it won, the alias; return the version."""
    if not client.search_registered_models(f"name = '{PLANNER}'"):
        client.create_registered_model(PLANNER)
    made = client.create_model_version(PLANNER, model.model_uri, run_id, model_id=model.model_id)
    version = str(made.version)
    if promote:
        client.set_registered_model_alias(PLANNER, CHAMPION, version)
    return version


def _log_history(run_id: str, history: History) -> None:
    """Send the curves in a few large calls: one call a number would take longer than a step."""
    import time

    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    values = [
        Metric(key=name, value=float(value), timestamp=now, step=int(row["step"]))
        for row in history
        for name, value in row.items()
        if name != "step"
    ]
    for start in range(0, len(values), METRICS_A_CALL):
        mlflow.MlflowClient().log_batch(run_id, metrics=values[start : start + METRICS_A_CALL])


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as one level of text: `sampler.steps`."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:PARAM_LENGTH]
    return flat
