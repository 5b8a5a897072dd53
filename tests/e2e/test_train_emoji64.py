"""The recipe as a flow: its stages are tasks, and what is finished is not made again."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffgraph.families.emoji64 import ASSETS as SHIPPED
from diffgraph.graph.snapshot import open_snapshot
from diffgraph.homes import family_folder
from diffgraph.planner.planner import Planner
from recipes.emoji64 import flow as recipe
from recipes.emoji64 import stages
from recipes.emoji64.flow import GRAPH, STAGES, train_emoji64
from recipes.emoji64.recipe_settings import RecipeSettings

BY_RECIPE = [stage for stage in STAGES if stage != GRAPH]

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def run(monkeypatch, tmp_path) -> list[str]:
    """Let every stage write a file, and note which ones did."""
    ran: list[str] = []

    def leaves(name):
        def stage(settings: RecipeSettings) -> None:
            path = settings.out / name
            if not path.is_file():
                path.touch()
                ran.append(name)

        return stage

    monkeypatch.setattr(stages, "STAGES", {name: leaves(name) for name in stages.STAGES})
    return ran


def test_every_stage_is_a_task_in_order(run, tmp_path):
    made = train_emoji64(RecipeSettings(Path("cache"), tmp_path, tmp_path / "assets", tmp_path))
    assert list(made.seconds) == list(STAGES)
    assert run == BY_RECIPE
    assert made.document is None
    assert "together" in next(iter(made.lines()))


def test_a_failure_stops_the_run_and_the_next_one_goes_on(run, tmp_path, monkeypatch):
    settings = RecipeSettings(Path("cache"), tmp_path, tmp_path / "assets", tmp_path)

    def breaks(_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, "experts", breaks)
        with pytest.raises(RuntimeError, match="out of memory"):
            train_emoji64(settings)
    assert run == ["art", "base", "refine"]
    train_emoji64(settings)
    assert run == BY_RECIPE


def test_the_graph_and_the_planner_are_those_of_the_new_hub(monkeypatch, tmp_path):
    """They are built and trained in the home, in order; the planner in force is what ships."""
    home, assets = tmp_path / "home", tmp_path / "assets"
    own = family_folder(home, "emoji64")
    monkeypatch.setenv("DIFFGRAPH_HOME", str(home))
    monkeypatch.setattr(recipe, "ASSETS", assets)
    asked: list[str] = []

    def found(family):
        asked.append("discover")

    def built(family):
        asked.append("build")
        snapshot = open_snapshot(SHIPPED / "snapshot", None).id
        shutil.copytree(SHIPPED / "snapshot", own / "snapshots" / snapshot)
        return SimpleNamespace(snapshot=snapshot)

    def trained(family, like):
        asked.append(f"train like {like}")
        shipped = Planner.load(SHIPPED / "planner")
        Planner.new(shipped.config.model_copy(update={"seed": 5})).save(own / "planners" / "new1")
        (own / "champion").write_text("new1")

    for name, stand_in in (("discover", found), ("build", built), ("train", trained)):
        monkeypatch.setattr(recipe, name, stand_in)
    recipe.make_graph(RecipeSettings(Path("cache"), tmp_path, assets))
    assert asked == ["discover", "build", "train like shipped"]
    assert Planner.load(assets / "planner").config.seed == 5
    assert open_snapshot(assets / "snapshot", None).family == "emoji64"
    asked.clear()
    recipe.make_graph(RecipeSettings(Path("cache"), tmp_path, tmp_path / "rehearsed"))
    assert not asked
