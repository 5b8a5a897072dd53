"""What is remembered of a run? Parameters, curves, metrics, the report and the planner, in MLflow.

The only place that talks to MLflow. Without `DIFFGRAPH_MLFLOW_TRACKING_URI` it is SQLite in the
home folder: no server has to be started, and `mlflow ui` shows it. A server that does not answer
takes nothing from a run: its records wait in the home folder, and go with the next one.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from diffgraph.artifacts import storing
from diffgraph.errors import ServiceError, ServiceRefused, ServiceUnavailable
from diffgraph.permissions import make_folder, private_umask
from diffgraph.results import Recorded
from tasks.policies import RECORD, named, task
from tasks.tracking.database import ARTIFACTS, address_of, make_database
from tasks.tracking.unsent import Record, flat, keep, read, waiting

log = logging.getLogger(__name__)

PLANNER = "diffgraph-planner"
"""The name planners are registered under."""

CHAMPION = "champion"
METRICS_A_CALL = 1000  # MLflow's own limit
PARAM_LENGTH = 500
MASTERED = {
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own patience is minutes a request; ours is a task that is tried again, and a file
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""How MLflow behaves here, unless the user says otherwise."""


def record_training(
    home: Path,
    uri: str | None,
    params: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    metrics: Mapping[str, float],
    planner: Path,
    promote: bool,
) -> Recorded:
    """Record a training run, register its planner, and give it the alias if it won."""
    record = Record(
        experiment="train",
        params=flat(dict(params)),
        history=[dict(row) for row in history],
        metrics=dict(metrics),
        planner=planner.absolute(),
        promote=promote,
    )
    return _record(home, uri, record)


def record_evaluation(
    home: Path,
    uri: str | None,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
) -> Recorded:
    """Record an evaluation with its report."""
    record = Record(
        experiment="evaluate",
        params=flat(dict(params)),
        metrics=dict(metrics),
        files=[file.absolute() for file in files],
    )
    return _record(home, uri, record)


def record_spending(
    home: Path, uri: str | None, model: str, instructions: str, spending: Mapping[str, float | None]
) -> Recorded:
    """Record the tokens and dollars that a language model's answers took."""
    record = Record(
        experiment="agent",
        params={"model": model, "instructions": instructions},
        metrics={name: float(value) for name, value in spending.items() if value is not None},
    )
    return _record(home, uri, record)


def _record(home: Path, uri: str | None, record: Record) -> Recorded:
    """Keep a record, and send it with all that wait; one that cannot be sent stays.

    Raises:
        StorageError: it cannot even be kept.
    """
    kept = keep(home, record)
    address = uri or address_of(home)
    sent: dict[Path, Recorded] = {}
    for place in waiting(home):
        try:
            sent[place] = send(home, address, place)
        except ServiceError as error:
            log.warning("%s; the record stays in %s and is sent with the next", error, place)
            if isinstance(error, ServiceUnavailable):
                break
    return sent.get(kept, Recorded(uri=address, champion=record.promote, kept=kept))


def deliver(home: Path, uri: str, place: Path) -> Recorded:
    """Bring a record to MLflow; then its file goes.

    Raises:
        ServiceUnavailable: MLflow does not answer.
        ServiceRefused: it does not take the record.
    """
    record = read(place)
    if record is None:
        return Recorded(uri=uri)
    with _run(home, uri, record.experiment) as (mlflow, run_id):
        mlflow.log_params({name: text[:PARAM_LENGTH] for name, text in record.params.items()})
        _log_history(mlflow, run_id, record.history)
        mlflow.log_metrics(record.metrics)
        for file in record.files:
            if file.is_file():
                mlflow.log_artifact(str(file))
            else:
                log.warning("%s has gone since, so MLflow does not get it", file)
        version = _register(mlflow, run_id, record) if record.planner else ""
    place.unlink(missing_ok=True)
    return Recorded(run_id=run_id, uri=uri, version=version, champion=record.promote)


send = task(
    **RECORD, name="record", task_run_name=named(lambda given: f"record {given['place'].stem}")
)(deliver)


@contextmanager
def _run(home: Path, uri: str, experiment: str) -> Iterator[tuple[Any, str]]:
    """Open a run in an experiment that keeps its files in the home folder."""
    with _mastered():
        import mlflow
        import requests
        from mlflow.utils.logging_utils import disable_logging
        from sqlalchemy.exc import SQLAlchemyError

        disable_logging()
        logging.getLogger("alembic").setLevel(logging.ERROR)
        # it logs the traces of the errors that it raises, too
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        with storing(home):
            make_folder(home)
        is_ours = uri.startswith("sqlite:///")
        try:
            with private_umask(home) if is_ours else nullcontext():
                if uri == address_of(home):
                    make_database(home)
                mlflow.set_tracking_uri(uri)
                name = f"diffgraph-{experiment}"
                if mlflow.get_experiment_by_name(name) is None:
                    place = (home.resolve() / ARTIFACTS).as_uri() if is_ours else None
                    mlflow.create_experiment(name, artifact_location=place)
                mlflow.set_experiment(name)
                with mlflow.start_run() as run:
                    yield mlflow, str(run.info.run_id)
        except (
            mlflow.MlflowException,
            requests.RequestException,
            SQLAlchemyError,
            OSError,
            ValueError,
        ) as error:
            raise _service_error(uri, error) from error


@contextmanager
def _mastered() -> Iterator[None]:
    """Let MLflow behave as it should; it leaves the environment as it was."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in MASTERED.items() if name not in before})
    try:
        yield
    finally:
        for name in {*os.environ, *before}:
            if name in MASTERED or name.startswith("MLFLOW_"):
                os.environ.pop(name, None)
                os.environ.update({name: before[name]} if name in before else {})


def _service_error(uri: str, error: Exception) -> ServiceError:
    """Return what a failure of MLflow means: worth another try, or not."""
    import mlflow
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    root: BaseException = error
    while root.__cause__ or root.__context__:  # the rest repeats addresses, and runs over lines
        root = root.__cause__ or root.__context__ or root
    reason = " ".join(str(root).split())[:300] or type(root).__name__
    status = 400
    if isinstance(error, mlflow.MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, SQLAlchemyError):
        status = 503  # the disk is full, or another process writes
    elif isinstance(error, requests.RequestException):
        status = 503 if error.response is None else error.response.status_code
    if status >= 500 or status == 429:
        return ServiceUnavailable(f"MLflow at {uri} does not answer: {reason}")
    return ServiceRefused(f"MLflow at {uri} does not take a record: {reason}")


def _register(mlflow: Any, run_id: str, record: Record) -> str:
    """Log a planner, give it a version and, if it won, the alias; return the version."""
    model = mlflow.pyfunc.log_model(
        name="planner",
        python_model=str(Path(__file__).with_name("planner_model.py")),
        artifacts={"planner": str(record.planner)},
        pip_requirements=["diffgraph"],
    )
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{PLANNER}'"):
        client.create_registered_model(PLANNER)
    made = client.create_model_version(PLANNER, model.model_uri, run_id, model_id=model.model_id)
    version = str(made.version)
    if record.promote:
        client.set_registered_model_alias(PLANNER, CHAMPION, version)
    return version


def _log_history(mlflow: Any, run_id: str, history: Sequence[Mapping[str, float]]) -> None:
    """Send the curves in a few large calls: one call a number would take longer than a step."""
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
