"""Files that are whole or absent: also when the process that wrote them was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffgraph.artifacts import new_file, new_folder, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from diffgraph.artifacts import new_file, new_folder
with {how}(Path(sys.argv[1])) as part:
    (part / "weights" if part.is_dir() else part).write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["new_file", "new_folder"])
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path, how: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED.format(how=how), tmp_path / "model"], check=False)
    assert len(names(tmp_path)) == 1
    write_text(tmp_path / "another", "x")
    assert names(tmp_path) == ["another"]


def test_what_is_still_written_stays(tmp_path: Path) -> None:
    with new_file(tmp_path / "one") as one, new_folder(tmp_path / "two") as two:
        (two / "inside").write_text("2")
        write_text(tmp_path / "three", "3")
        one.write_text("1")
    assert names(tmp_path) == ["one", "three", "two"]
    assert (tmp_path / "two" / "inside").read_text() == "2"


def test_what_another_process_writes_stays(tmp_path: Path) -> None:
    with new_file(tmp_path / "one") as one:
        one.write_text("1")
        code = "import sys; from pathlib import Path; from diffgraph.artifacts import write_text; "
        code += "write_text(Path(sys.argv[1]), '2')"
        subprocess.run([sys.executable, "-c", code, tmp_path / "two"], check=True)
        assert one.read_text() == "1"
    assert names(tmp_path) == ["one", "two"]


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    kept = [".model.part", "model.abcd1234.part", ".model.abcd1234.partial", ".model.ABCD1234.part"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".link.abcd1234.part").symlink_to(tmp_path / kept[0])
    write_text(tmp_path / "one", "1")
    assert names(tmp_path) == sorted([*kept, ".link.abcd1234.part", "one"])


def test_a_folder_takes_anothers_place(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path / "model", replace=True) as part:
            (part / content).touch()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["new"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "model" / "old", "x")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "model", replace=True) as part:
        (part / f"{1 / 0}").touch()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["old"]


@pytest.mark.parametrize("letter", ["x", "\U0001f680"])
def test_a_name_as_long_as_names_may_be(tmp_path: Path, letter: str) -> None:
    name = letter * (os.pathconf(tmp_path, "PC_NAME_MAX") // len(letter.encode()))
    write_text(tmp_path / name, "1")
    assert names(tmp_path) == [name]
