"""Runs, curves and planners are found again in MLflow, on SQLite, without a server."""

from pathlib import Path

import pytest

from tasks.tracking import CHAMPION, PLANNER, record_evaluation, record_spending, record_training


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    planner = home / "planners" / "one"
    planner.mkdir(parents=True)
    (planner / "config.json").write_text("{}")
    results = [
        record_training.fn(
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
    results.append(record_evaluation.fn(home, None, {"set": "bench"}, {"reward": 1.5}, [report]))
    return home, results


@pytest.fixture
def mlflow(recorded):
    import mlflow

    mlflow.set_tracking_uri(recorded[1][0].uri)
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
    run = record_spending.fn(recorded[0], None, "claude-x", "abc", spent)
    kept = mlflow.get_run(run.run_id).data
    assert kept.metrics == spent
    assert kept.params["model"] == "claude-x"
    unpriced = record_spending.fn(recorded[0], None, "claude-y", "abc", spent | {"dollars": None})
    assert "dollars" not in mlflow.get_run(unpriced.run_id).data.metrics
