"""The recipe as a flow: its stages are tasks, and what is finished is not made again."""

from pathlib import Path

import pytest

from diffgraph.recipe import stages
from diffgraph.recipe.workshop import Workshop
from flows.train_emoji64 import STAGES, train_emoji64

pytestmark = pytest.mark.usefixtures("prefect_server", "our_environment")


@pytest.fixture
def run(monkeypatch, tmp_path) -> list[str]:
    """Let every stage write a file, and note which ones did."""
    ran: list[str] = []

    def leaves(name):
        def stage(workshop: Workshop) -> None:
            path = workshop.out / name
            if not path.is_file():
                path.touch()
                ran.append(name)

        return stage

    monkeypatch.setattr(stages, "STAGES", {name: leaves(name) for name in stages.STAGES})
    return ran


def test_every_stage_is_a_task_in_order(run, tmp_path):
    made = train_emoji64(Workshop(Path("cache"), tmp_path, tmp_path / "assets", tmp_path))
    assert run == list(STAGES) == list(made.seconds)
    assert made.document is None
    assert "together" in next(iter(made.lines()))


def test_a_failure_stops_the_run_and_the_next_one_goes_on(run, tmp_path, monkeypatch):
    workshop = Workshop(Path("cache"), tmp_path, tmp_path / "assets", tmp_path)

    def breaks(_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, "experts", breaks)
        with pytest.raises(RuntimeError, match="out of memory"):
            train_emoji64(workshop)
    assert run == ["art", "base", "refine"]
    train_emoji64(workshop)
    assert run == list(STAGES)
