"""What is written below a home is its user's alone; elsewhere the umask says who may read it."""

import os
import stat
from pathlib import Path

import pytest

from diffgraph.artifacts import append_lines, lock_at, new_folder, write_text
from diffgraph.experts.line_store import LineStore
from diffgraph.permissions import close, make_folder, opener
from diffgraph.settings import Settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o022, 0o002, 0o000], ids=oct)
def _umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def write_all_kinds(folder: Path) -> None:
    """Write in every way that there is."""
    write_text(folder / "scores" / "a.txt", "a")
    append_lines(folder / "scores" / "lines.jsonl", b"{}\n")
    LineStore(folder / "cards" / "cards.jsonl").put([("0" * 64, "{}")])
    with lock_at(folder / "scores" / ".lock"):
        pass
    with open(folder / "scores" / "opened", "ab", opener=opener) as file:
        file.write(b"a")
    with new_folder(folder / "snapshots" / "one") as part:
        (part / "below").mkdir()
        (part / "below" / "nodes.parquet").write_bytes(b"a")


@pytest.mark.usefixtures("_umask")
def test_a_home_and_all_that_is_written_below_it_is_private(tmp_path):
    home = tmp_path / "a" / "home"
    Settings(home=home)
    write_all_kinds(home)
    found = [home, *home.rglob("*")]
    assert len(found) > 10
    assert {mode(path) for path in found if path.is_dir()} == {0o700}
    assert {mode(path) for path in found if path.is_file()} == {0o600}
    assert mode(tmp_path / "a") & 0o055 == 0o055  # where it lies is none of our business


@pytest.mark.usefixtures("_umask")
def test_what_a_user_names_is_written_as_the_umask_says(tmp_path):
    Settings(home=tmp_path / "home")
    out = tmp_path / "home-of-images"  # not below it, though it begins alike
    write_all_kinds(out)
    present = os.umask(0o077)
    os.umask(present)
    assert {mode(path) for path in out.rglob("*") if path.is_file()} == {0o666 & ~present}
    assert mode(out / "snapshots" / "one") == 0o777 & ~present


def test_a_home_that_its_user_opened_to_a_group_is_the_groups(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o750)
    Settings(home=home)
    write_all_kinds(home)
    assert mode(home) == 0o750
    assert {mode(path) for path in home.rglob("*") if path.is_dir()} == {0o750}
    assert {mode(path) for path in home.rglob("*") if path.is_file()} == {0o640}


@pytest.fixture
def open_home(tmp_path) -> Path:
    """A home as earlier versions left it."""
    home = tmp_path / "home"
    write_all_kinds(home)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (home / "library").mkdir()
    (home / "library" / "sealed").write_text("a")
    (home / "library" / "sealed").chmod(0o444)
    (home / "mlflow.db.damaged-2").write_text("a")
    return home


def test_a_home_that_others_could_read_is_closed_when_it_is_next_written_to(open_home, caplog):
    Settings(home=open_home)
    write_text(open_home / "scores" / "b.txt", "b")
    assert {mode(path) & 0o077 for path in (open_home, *open_home.rglob("*"))} == {0}
    assert mode(open_home / "library" / "sealed") == 0o400
    assert str(open_home) in caplog.text


def test_links_out_of_a_home_and_what_is_not_ours_stay_as_they_are(open_home, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_text("a")
    mine.chmod(0o644)
    (open_home / "library" / "link").symlink_to(mine)
    (open_home / "thesis").mkdir(mode=0o755)
    close(open_home)
    assert mode(mine) == 0o644
    assert mode(open_home / "thesis") == 0o755
    assert mode(open_home) == 0o755  # for somebody keeps other things there
    assert mode(open_home / "scores") == 0o700
    assert mode(open_home / "scores" / "a.txt") == 0o600


def test_a_folder_that_is_no_home_yet_keeps_its_permissions(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "file").write_text("a")
    Settings(home=shared)
    make_folder(shared / "library")
    assert mode(shared) == 0o777
    assert mode(shared / "library") == 0o700
