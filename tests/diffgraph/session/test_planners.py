"""Which planner is used: the champion, or whoever is whole if the champion is damaged."""

import logging
from pathlib import Path

import pytest

from diffgraph.artifacts import write_text
from diffgraph.errors import MissingInput
from diffgraph.families import get_family
from diffgraph.planner.planner import Planner
from diffgraph.session.planners import champion_folder, planner_content, planner_in_force

SHIPPED = get_family("emoji64").assets / "planner"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Planner.load(SHIPPED).with_metrics({"own": 1.0}).save(tmp_path / "planners" / "own1")
    write_text(tmp_path / "planners" / "champion", "own1")
    return tmp_path


def flip(folder: Path) -> None:
    file = folder / "planner.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "the pointer empty": lambda home: (home / "planners" / "champion").write_text(""),
    "the pointer garbage": lambda home: (home / "planners" / "champion").write_bytes(b"\xff/.."),
    "the pointer to nowhere": lambda home: (home / "planners" / "champion").write_text("own2"),
    "a wrong bit": lambda home: flip(home / "planners" / "own1"),
    "no weights": lambda home: (home / "planners" / "own1" / "planner.safetensors").unlink(),
    "no config": lambda home: (home / "planners" / "own1" / "config.json").unlink(),
    "half a config": lambda home: (home / "planners" / "own1" / "config.json").write_text("{"),
}


def test_the_champion_is_used(home):
    folder, content = planner_in_force(home, "emoji64")
    assert folder == home / "planners" / "own1"
    assert content == planner_content(folder) != planner_content(SHIPPED)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_champion_is_told_and_another_planner_used(home, damage, caplog):
    damage(home)
    with caplog.at_level(logging.WARNING):
        assert planner_in_force(home, "emoji64") == (SHIPPED, planner_content(SHIPPED))
    (told,) = caplog.messages
    assert str(SHIPPED) in told
    assert str(home) in told


def test_without_any_planner_it_says_what_to_do(tmp_path):
    with pytest.raises(MissingInput, match="diffgraph train"):
        planner_in_force(tmp_path, "sd15")
    with pytest.raises(MissingInput, match="diffgraph train"):
        champion_folder(tmp_path, "sd15")
