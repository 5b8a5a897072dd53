"""What a home of an earlier version becomes: moved whole, however often that is broken off."""

import json
import logging
import os
from pathlib import Path

import pytest

from diffgraph.errors import MissingInput
from diffgraph.experts.library import Library
from diffgraph.homes import family_folder, read_pointer, write_pointer

FILES = {
    "snapshots/aaa1/manifest.json": json.dumps({"family": "emoji64"}),
    "snapshots/aaa1/nodes.parquet": "nodes",
    "snapshots/bbb2/manifest.json": json.dumps({"family": "sd15"}),
    "snapshots/aaa0.damaged/manifest.json": "{",
    "snapshots/current": "aaa1",
    "snapshots/.lock": "",
    "planners/ccc3/config.json": json.dumps({"family": "emoji64"}),
    "planners/ddd4/config.json": json.dumps({"family": "sd15"}),
    "planners/eee5/step-3.safetensors": "a training that was stopped",
    "planners/champion": "ddd4\r\n",
    "planners/seen": "aaa1",
    "library/experts.jsonl": "",
}
MOVED = {
    "families/emoji64/snapshots/aaa1/manifest.json",
    "families/emoji64/snapshots/aaa1/nodes.parquet",
    "families/emoji64/snapshots/aaa0.damaged/manifest.json",
    "families/emoji64/current",
    "families/emoji64/planners/ccc3/config.json",
    "families/emoji64/planners/eee5/step-3.safetensors",
    "families/emoji64/seen",
    "families/sd15/snapshots/bbb2/manifest.json",
    "families/sd15/planners/ddd4/config.json",
    "families/sd15/champion",
    "library/experts.jsonl",
}


class Killed(BaseException):
    """What `except Exception` does not catch, as it catches no SIGKILL."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as the version before wrote it."""
    home = tmp_path / "home"
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def files_of(home: Path) -> set[str]:
    found = (path.relative_to(home) for path in home.rglob("*") if path.is_file())
    return {str(path) for path in found if path.name != ".lock"}


def test_a_home_of_the_version_before_is_moved_and_told_once(home, caplog):
    with caplog.at_level(logging.WARNING):
        assert family_folder(home, "emoji64") == home / "families" / "emoji64"
        family_folder(home, "sd15")
    assert files_of(home) == MOVED
    (told,) = caplog.messages
    assert str(home) in told
    assert read_pointer(home / "families" / "sd15" / "champion") == "ddd4"
    assert not (home / "snapshots").exists()
    assert not (home / "planners").exists()


def test_a_move_that_is_killed_at_any_step_is_gone_on_with(home, monkeypatch):
    rename, moved = Path.rename, []

    def dying(path: Path, target: Path) -> Path:
        rename(path, target)
        moved.append(target)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        for _ in range(9):  # one step a run
            with pytest.raises(Killed):
                family_folder(home, "emoji64")
    assert len(set(moved)) == 9
    family_folder(home, "emoji64")
    assert files_of(home) == MOVED


def test_what_names_no_family_goes_to_the_one_that_is_asked_for(tmp_path):
    write_pointer(tmp_path / "snapshots" / "current", "../../etc")
    (tmp_path / "planners" / "half").mkdir(parents=True)
    (tmp_path / "planners" / "half" / "config.json").write_text('{"family": "../../../etc"}')
    place = family_folder(tmp_path, "sd15")
    assert files_of(tmp_path) == {
        "families/sd15/current",
        "families/sd15/planners/half/config.json",
    }
    with pytest.raises(MissingInput, match="current holds no id"):
        read_pointer(place / "current")


def test_what_has_the_name_already_is_set_aside(home, caplog):
    there = home / "families" / "emoji64" / "snapshots" / "aaa1"
    there.mkdir(parents=True)
    (there / "manifest.json").write_text("another")
    with caplog.at_level(logging.WARNING):
        family_folder(home, "emoji64")
    assert (there / "nodes.parquet").is_file()
    assert (there.with_name("aaa1.damaged") / "manifest.json").read_text() == "another"
    assert any("aaa1.damaged" in line for line in caplog.messages)


@pytest.mark.parametrize("file", ["library/listings/ab12.json", "cards/ab12.json"])
def test_a_home_of_the_first_version_is_refused_in_a_line(tmp_path, file):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("{}")
    for use in (lambda: family_folder(tmp_path, "emoji64"), lambda: Library(tmp_path)):
        with pytest.raises(
            MissingInput, match=r"diffgraph 0.1.*choose another with --home"
        ) as told:
            use()
        assert str(tmp_path) in str(told.value)
        assert "\n" not in str(told.value)
    assert files_of(tmp_path) == {file}


@pytest.mark.parametrize("text", ["", "../up", "a/b", "a" * 65, "\xff", "é", "a\nb"])
def test_a_pointer_holds_a_name_and_nothing_like_a_path(tmp_path, text):
    (tmp_path / "current").write_text(text, encoding="utf-8")
    with pytest.raises(MissingInput, match="current holds no id"):
        read_pointer(tmp_path / "current")


def test_a_folder_in_the_place_of_a_pointer_is_set_aside(tmp_path, caplog):
    (tmp_path / "current").mkdir()
    with caplog.at_level(logging.WARNING):
        write_pointer(tmp_path / "current", "abc1")
    assert read_pointer(tmp_path / "current") == "abc1"
    assert (tmp_path / "current.damaged").is_dir()
    assert len(caplog.messages) == 1


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "other").write_text("theirs1")
    os.symlink(tmp_path / "other", tmp_path / "current")
    assert read_pointer(tmp_path / "current") == "theirs1"
    write_pointer(tmp_path / "current", "ours1")
    assert (tmp_path / "other").read_text() == "theirs1"
