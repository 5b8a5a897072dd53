"""Which planner is used: the champion, or whoever is whole if the champion is damaged."""

import logging
from pathlib import Path

import pytest

from diffgraph.artifacts import write_text
from diffgraph.errors import MissingInput
from diffgraph.families import get_family
from diffgraph.homes import family_folder
from diffgraph.planner.planner import Planner
from diffgraph.session.planners import UNTRAINED, champion_folder, planner_content, planner_in_force
from tests.planners import with_metrics

SHIPPED = get_family("emoji64").assets / "planner"


def own(home: Path) -> Path:
    return family_folder(home, "emoji64")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with_metrics(Planner.load(SHIPPED), own=1.0).save(own(tmp_path) / "planners" / "own1")
    write_text(own(tmp_path) / "champion", "own1")
    return tmp_path


def flip(folder: Path) -> None:
    file = folder / "planner.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "the pointer empty": lambda home: (own(home) / "champion").write_text(""),
    "the pointer garbage": lambda home: (own(home) / "champion").write_bytes(b"\xff/.."),
    "the pointer to nowhere": lambda home: (own(home) / "champion").write_text("own2"),
    "a wrong bit": lambda home: flip(own(home) / "planners" / "own1"),
    "no weights": lambda home: (own(home) / "planners" / "own1" / "planner.safetensors").unlink(),
    "no config": lambda home: (own(home) / "planners" / "own1" / "config.json").unlink(),
    "half a config": lambda home: (own(home) / "planners" / "own1" / "config.json").write_text("{"),
}


def test_the_champion_is_used(home):
    folder, content = planner_in_force(home, "emoji64")
    assert folder == own(home) / "planners" / "own1"
    assert content == planner_content(folder) != planner_content(SHIPPED)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_champion_is_told_and_another_planner_used(home, damage, caplog):
    damage(home)
    with caplog.at_level(logging.WARNING):
        assert planner_in_force(home, "emoji64") == (SHIPPED, planner_content(SHIPPED))
    (told,) = caplog.messages
    assert str(SHIPPED) in told
    assert str(home) in told


def test_a_planner_of_another_family_is_told_and_not_used(home, caplog):
    folder = own(home) / "planners" / "own1"
    config = Planner.load(folder).config
    Planner.new(config.model_copy(update={"family": "sd15"})).save(folder)
    with caplog.at_level(logging.WARNING):
        assert planner_in_force(home, "emoji64")[0] == SHIPPED
    assert "own1 holds a planner of sd15, not of emoji64" in caplog.messages[0]


def test_a_family_without_any_planner_plans_without_one(tmp_path):
    assert planner_in_force(tmp_path, "sd15")[1] == UNTRAINED
    with pytest.raises(MissingInput, match="diffgraph train"):
        champion_folder(tmp_path, "sd15")
