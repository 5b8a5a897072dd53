"""Runs, curves and planners are found again in MLflow, on SQLite, without a server."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import tasks.tracking
from diffgraph.errors import ServiceRefused, ServiceUnavailable
from tasks.tracking import (
    CHAMPION,
    PLANNER,
    database,
    deliver,
    record_evaluation,
    record_spending,
    record_training,
)
from tasks.tracking.unsent import UNSENT, Record, keep, read, waiting
from tests.servers.answering import answering_with


@pytest.fixture(scope="module", autouse=True)
def without_prefect():
    """Records are sent here, not by a task: no server is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.tracking, "send", deliver)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    planner = home / "planners" / "one"
    planner.mkdir(parents=True)
    (planner / "config.json").write_text("{}")
    results = [
        record_training(
            home,
            None,
            {"search": {"samples": 8}, "seed": 3},
            [{"step": step, "reward": step / 10} for step in range(20)],
            {"validation_reward": 0.5},
            planner,
            promote,
        )
        for promote in (True, False)
    ]
    report = home / "report.html"
    report.write_text("<h1>…</h1>")
    results.append(record_evaluation(home, None, {"set": "bench"}, {"reward": 1.5}, [report]))
    return home, results


@pytest.fixture
def mlflow(recorded, monkeypatch):
    import mlflow

    uri = recorded[1][0].uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # as the next line does, for this test only
    mlflow.set_tracking_uri(uri)
    return mlflow


def test_parameters_curves_and_metrics_are_kept(recorded, mlflow):
    run = mlflow.get_run(recorded[1][0].run_id)
    assert run.data.params == {"search.samples": "8", "seed": "3"}
    assert run.data.metrics["validation_reward"] == 0.5
    curve = mlflow.MlflowClient().get_metric_history(recorded[1][0].run_id, "reward")
    assert [point.value for point in curve] == [step / 10 for step in range(20)]


def test_only_a_better_planner_becomes_champion(recorded, mlflow):
    first, second, _ = recorded[1]
    assert (first.version, second.version) == ("1", "2")
    champion = mlflow.MlflowClient().get_model_version_by_alias(PLANNER, CHAMPION)
    assert str(champion.version) == "1"


def test_the_registered_planner_holds_no_pickle(recorded, mlflow):
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{PLANNER}@{CHAMPION}"))
    names = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert ".json" in names
    assert not names & {".pkl", ".pickle", ".pt", ".bin"}


def test_everything_is_in_the_home(recorded, mlflow):
    home, results = recorded
    assert (home / "mlflow.db").is_file()
    run = mlflow.get_run(results[2].run_id)
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(home)
    files = mlflow.MlflowClient().list_artifacts(results[2].run_id)
    assert [file.path for file in files] == ["report.html"]


def test_what_a_language_model_cost_is_kept(recorded, mlflow):
    spent = {"answers": 3, "output_tokens": 120, "dollars": 0.25}
    run = record_spending(recorded[0], None, "claude-x", "abc", spent)
    kept = mlflow.get_run(run.run_id).data
    assert kept.metrics == spent
    assert kept.params["model"] == "claude-x"
    unpriced = record_spending(recorded[0], None, "claude-y", "abc", spent | {"dollars": None})
    assert "dollars" not in mlflow.get_run(unpriced.run_id).data.metrics


# a server that does not answer, or not as it should


NOTHING = Record(experiment="agent", params={"model": "x"}, metrics={"dollars": 0.5})
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_record_that_cannot_be_sent_is_kept_and_goes_with_the_next(
    recorded, mlflow, impatient, caplog
):
    home = recorded[0]
    spent = {"answers": 1.0, "unpriced": float("nan")}
    before = dict(os.environ)
    first = record_spending(home, DEAD, "claude-later", "abc", spent)
    assert first.run_id == ""
    assert waiting(home) == [first.kept]
    assert read(first.kept).metrics["answers"] == 1.0
    (line,) = [record.message for record in caplog.records if record.name == "tasks.tracking"]
    assert DEAD in line
    assert str(first.kept) in line

    gone = home / "gone.html"
    second = record_evaluation(home, None, {"set": "bench"}, {}, [gone])
    assert second.kept is None
    assert not waiting(home)
    assert str(gone) in caplog.text, "a report that has gone stops no record"
    assert dict(os.environ) == before, "MLflow leaves the environment as it was"
    mlflow.set_tracking_uri(second.uri)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert "claude-later" in {run.data.params.get("model") for run in runs}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (None, ServiceUnavailable),
        (503, ServiceUnavailable),
        (429, ServiceUnavailable),
        (401, ServiceRefused),
        (404, ServiceRefused),
        (200, ServiceUnavailable),  # a page of something between us and it
    ],
)
def test_a_server_that_fails_us_is_told_as_a_service(tmp_path, impatient, status, kind):
    place = keep(tmp_path, NOTHING)
    with answering_with(status, b"<html>no MLflow here</html>") as url:
        address = url.replace("http://", "http://me:hunter2@")
        with pytest.raises(kind, match=r"MLflow at http://\*\*\*@127"):
            deliver(tmp_path, address, place)
    assert place.is_file(), "it is kept"


def test_a_damaged_record_is_set_aside_and_told(tmp_path, caplog):
    place = keep(tmp_path, NOTHING)
    place.write_text(place.read_text()[:20])
    assert not deliver(tmp_path, DEAD, place).run_id, "nobody is asked to take it"
    assert [file.suffix for file in (tmp_path / UNSENT).iterdir()] == [".damaged"]
    assert "damaged" in caplog.text
    assert not waiting(tmp_path)


def record(home: Path):
    return record_evaluation(home, None, {"set": "bench"}, {"reward": 1.5})


def test_a_database_that_is_being_made_is_not_there_yet(tmp_path, monkeypatch):
    """A run that is killed leaves none or a whole one: MLflow could not go on from half."""
    seen = []

    def watched(path: Path, artifacts: Path) -> None:
        whole(path, artifacts)
        seen.append((tmp_path / "mlflow.db").exists())

    whole = database._make
    monkeypatch.setattr(database, "_make", watched)
    assert record(tmp_path).run_id
    assert seen == [False]
    assert (tmp_path / "mlflow.db").is_file()
    assert not list(tmp_path.glob(".*")), "nothing is left of its making"


@pytest.mark.parametrize("damage", ["half made", "no database", "cut", "empty"])
def test_a_damaged_database_is_set_aside_told_and_made_again(
    recorded, tmp_path, caplog, monkeypatch, damage
):
    whole = recorded[0] / "mlflow.db"
    monkeypatch.setattr(database, "_make", lambda path, _: shutil.copyfile(whole, path))
    path = Path(shutil.copy(whole, tmp_path))
    data = path.read_bytes()
    if damage == "half made":
        with closing(sqlite3.connect(path)) as half, half:
            half.execute("DELETE FROM alembic_version")
            half.execute("DROP TABLE model_versions")
    else:
        cut = {"no database": b"x" * 9000, "cut": data[: len(data) // 2], "empty": b""}
        path.write_bytes(cut[damage])
    assert record(tmp_path).run_id
    assert (tmp_path / "mlflow.db.damaged").is_file()
    assert any("mlflow.db is damaged (" in line for line in caplog.messages)
    assert not waiting(tmp_path)


def test_a_database_that_cannot_be_written_costs_the_run_nothing(tmp_path, impatient, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def full(path: Path, artifacts: Path) -> None:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(database, "_make", full)
    told = record(tmp_path)
    assert told.kept == waiting(tmp_path)[0]


def test_a_database_that_fails_is_told_without_a_trace(recorded, tmp_path, capfd, caplog):
    shutil.copy(recorded[0] / "mlflow.db", tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute(
            "CREATE TRIGGER fails BEFORE INSERT ON params BEGIN SELECT * FROM gone; END"
        )
    place = keep(tmp_path, Record(experiment="train", params={"steps": "1"}))
    with pytest.raises(ServiceUnavailable, match=r"no such table: main\.gone"):
        deliver(tmp_path, database.address_of(tmp_path), place)
    said = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in said


def test_a_record_finds_its_planner_where_the_home_has_moved_it(tmp_path):
    place = keep(tmp_path, Record(experiment="train", params={}, planner=tmp_path / "planners/a1"))
    moved = tmp_path / "families" / "emoji64" / "planners" / "a1"
    moved.mkdir(parents=True)
    assert read(place).planner == moved
