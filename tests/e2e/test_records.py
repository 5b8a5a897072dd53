"""What is not recorded, or kept to be recorded, is never in force."""

import pytest

from diffgraph.errors import StorageError
from diffgraph.homes import family_folder
from tasks.tracking.unsent import UNSENT, waiting

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def silent(monkeypatch):
    """Nobody answers where MLflow should be."""
    monkeypatch.setenv("DIFFGRAPH_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_planner_is_in_force_when_its_record_is_safe(home, silent, monkeypatch):
    from flows import train_planner
    from flows.train_planner import train

    monkeypatch.setattr(train_planner, "_reward_of_champion", lambda *_: None)  # nobody to beat
    champion = family_folder(home, "emoji64") / "champion"
    (home / UNSENT).write_text("no folder: nothing can be kept")
    with pytest.raises(StorageError, match=UNSENT):
        train(steps=1, prompts=16)
    assert not champion.exists()

    (home / UNSENT).unlink()
    trained = train(steps=1, prompts=16)  # goes on from its checkpoint
    assert trained.run.kept in waiting(home)
    assert trained.promoted
    assert champion.read_text() == trained.planner
    assert any("not recorded" in str(line) for line in trained.lines())
