"""The library keeps what it was given, whole or not at all."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffgraph.errors import MissingInput, StorageError
from diffgraph.experts.expert import Expert, ExpertRef, Licence, ListedFile, Listing
from diffgraph.experts.library import SPARE_ROWS, Library, page_hash
from tests.waiting import PATIENCE

NOBODY = 65534


def expert(ref: str = "emojihub:1@11", **fields: object) -> Expert:
    values = {"ref": ref, "name": "Nightfall", "kind": "peft", "family": "emoji64", **fields}
    return Expert.model_validate(values)


def listing(ref: str = "emojihub:1@11", **fields: object) -> Listing:
    values = {"ref": ExpertRef.parse(ref), "name": "Nightfall", **fields}
    return Listing.model_validate(values)


def weights(folder: Path, content: bytes = b"weights") -> tuple[Path, str]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "new.safetensors"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", bundled=())


def test_what_was_added_is_found_by_another_reader(library: Library, tmp_path: Path) -> None:
    file, sha256 = weights(tmp_path)
    page = listing(description="Für die Nacht 🌙")
    row = library.add(expert(sha256=sha256, status="ready"), page, file)

    other = Library(tmp_path / "home", bundled=())
    assert other.experts() == (row,)
    assert other.get("emojihub:1@11").page_sha256 == page_hash(page)
    assert other.listing("emojihub:1@11") == page
    assert other.path_of(sha256).read_bytes() == b"weights"
    assert not file.exists(), "the file is moved, not copied"


def test_nothing_is_written_before_something_is_added(library: Library, tmp_path: Path) -> None:
    assert library.experts() == ()
    assert library.find("emojihub:1@11") is None
    assert not (tmp_path / "home").exists()


def test_experts_are_ordered_and_chosen_by_status(library: Library) -> None:
    for number, status in ((3, "ready"), (1, "rejected"), (2, "ready")):
        library.add(expert(f"hub:{number}@1", status=status), listing(f"hub:{number}@1"))
    assert [one.ref for one in library.experts()] == ["hub:1@1", "hub:2@1", "hub:3@1"]
    assert [one.ref for one in library.experts("ready")] == ["hub:2@1", "hub:3@1"]
    assert len(library.experts(("ready", "rejected"))) == 3


def test_unknown_ones_are_named(library: Library) -> None:
    with pytest.raises(MissingInput, match="hub:7@8"):
        library.get("hub:7@8")
    with pytest.raises(MissingInput, match="hub:7@8"):
        library.retire(["hub:7@8"])
    with pytest.raises(MissingInput, match="abcdef123456"):
        library.path_of("abcdef123456" + "0" * 52)


def test_retired_experts_stay_known(library: Library) -> None:
    library.add(expert(), listing())
    library.retire(["emojihub:1@11"])
    assert library.get("emojihub:1@11").status == "retired"
    assert "gone" in library.get("emojihub:1@11").reason
    assert library.listing("emojihub:1@11").name == "Nightfall"


def test_download_counts_are_no_news() -> None:
    assert page_hash(listing(downloads=3)) == page_hash(listing(downloads=4))
    assert page_hash(listing(description="a")) != page_hash(listing(description="b"))


def test_bundled_files_are_used_where_they_are(tmp_path: Path) -> None:
    file, sha256 = weights(tmp_path / "hub" / "files")
    index = {"name": "emojihub", "files": {sha256: "files/new.safetensors"}}
    (tmp_path / "hub" / "hub.json").write_text(json.dumps(index))
    library = Library(tmp_path / "home", bundled=[tmp_path / "hub", tmp_path / "absent"])
    assert library.path_of(sha256) == file

    copy, _ = weights(tmp_path / "elsewhere")
    library.add(expert(sha256=sha256), listing(), copy)
    assert library.path_of(sha256) == file
    assert not (tmp_path / "home/library/files").exists()


@pytest.mark.parametrize("about", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": null}}'])
def test_a_bundled_hub_that_is_no_hub_offers_nothing(about: str, tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text(about)
    assert not Library(tmp_path / "home", bundled=[tmp_path]).holds("a")


def test_adding_the_same_again_writes_nothing(library: Library) -> None:
    library.add(expert(), listing())
    table = library.folder / "experts.jsonl"
    before = table.read_bytes()
    library.add(expert(), listing())
    assert table.read_bytes() == before


def test_the_two_hundredth_expert_costs_no_more_than_the_first(library: Library) -> None:
    """They are appended: a file that were written anew for each would be another file."""
    with library.writing():
        library.add(expert("hub:0@1"), listing("hub:0@1"))
        files = {file: file.stat().st_ino for file in library.folder.glob("*.jsonl")}
        for number in range(1, 200):
            library.add(expert(f"hub:{number}@1"), listing(f"hub:{number}@1"))
        assert {file: file.stat().st_ino for file in files} == files
    assert len(Library(library.folder.parent, bundled=()).experts()) == 200


def test_rows_out_of_date_are_cleared_away(library: Library) -> None:
    library.add(expert(), listing())
    for number in range(SPARE_ROWS + 5):
        library.update([expert(reason=str(number), page_sha256=page_hash(listing()))])
    rows = (library.folder / "experts.jsonl").read_text().splitlines()
    assert len(rows) < SPARE_ROWS
    assert Library(library.folder.parent, bundled=()).get("emojihub:1@11").reason == str(
        SPARE_ROWS + 4
    )


def test_a_row_torn_by_a_crash_is_dropped(library: Library) -> None:
    library.add(expert("hub:1@1"), listing("hub:1@1"))
    with (library.folder / "experts.jsonl").open("ab") as table:
        table.write(b'{"ref": "hub:2@1", "na')
    again = Library(library.folder.parent, bundled=())
    assert [one.ref for one in again.experts()] == ["hub:1@1"]
    again.add(expert("hub:3@1"), listing("hub:3@1"))
    assert [one.ref for one in again.experts()] == ["hub:1@1", "hub:3@1"]
    assert b"hub:2@1" not in (library.folder / "experts.jsonl").read_bytes()


def test_a_home_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    library = Library(tmp_path / "home", bundled=())
    with pytest.raises(StorageError, match="cannot write") as failure:
        library.add(expert(), listing())
    assert "\n" not in str(failure.value)


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Be nobody if we are root, who may write anywhere."""
    ours = os.geteuid()
    os.seteuid(ours or NOBODY)
    try:
        yield
    finally:
        os.seteuid(ours)


def test_a_read_only_home_says_so(library: Library) -> None:
    library.add(expert("hub:1@1"), listing("hub:1@1"))
    with tempfile.TemporaryDirectory() as folder:  # nobody may look into pytest's
        Path(folder).chmod(0o555)
        home = Path(folder) / "home"
        with as_an_ordinary_user(), pytest.raises(StorageError, match="Permission denied"):
            Library(home, bundled=()).add(expert(), listing())
        assert not home.exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make the system refuse to let a file grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(library: Library) -> None:
    library.add(expert("hub:1@1"), listing("hub:1@1"))
    before = {path: path.read_bytes() for path in library.folder.rglob("*.json*")}
    room = (library.folder / "experts.jsonl").stat().st_size + 20
    with files_of_at_most(room), pytest.raises(StorageError, match="cannot write") as failure:
        library.update([library.get("hub:1@1").model_copy(update={"reason": "x" * 500})])
    assert os.strerror(errno.EFBIG) in str(failure.value)
    with files_of_at_most(100), pytest.raises(StorageError, match="listings"):
        library.add(expert("hub:2@1"), listing("hub:2@1", description="y" * 500))
    assert {path: path.read_bytes() for path in library.folder.rglob("*.json*")} == before
    assert not list(library.folder.rglob("*.part"))
    library.add(expert("hub:2@1"), listing("hub:2@1"))
    assert len(library.experts()) == 2


def test_what_killed_runs_left_is_swept_away(library: Library) -> None:
    library.add(expert(), listing())
    program = """
import os, sys
from pathlib import Path
from diffgraph.artifacts import new_file
from diffgraph.experts.library import Library
library = Library(Path(sys.argv[1]), bundled=())
with library.workbench() as bench, new_file(library.folder / "files" / "a.safetensors") as part:
    (bench / "half.safetensors").write_bytes(b"half")
    part.write_bytes(b"half")
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program, str(library.folder.parent)], check=False)
    assert len([*library.folder.glob(".*"), *library.folder.glob("files/.*.part")]) >= 2
    with library.workbench() as mine:
        library.sweep()
        assert [left for left in library.folder.rglob(".*.part")] == [mine]


def test_two_processes_add_at_once(tmp_path: Path) -> None:
    program = """
import sys
import tempfile
from pathlib import Path
from diffgraph.experts.expert import Expert, ExpertRef, Licence, ListedFile, Listing
from diffgraph.experts.library import Library
library = Library(Path(sys.argv[1]), bundled=())
for number in range(40):
    ref = f"{sys.argv[2]}:{number}@1"
    library.add(Expert(ref=ref, name="n", kind="peft", family="emoji64"),
                Listing(ref=ExpertRef.parse(ref), name="n"))
"""
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    assert [run.wait(PATIENCE) for run in runs] == [0, 0]
    assert len(Library(tmp_path, bundled=()).experts()) == 80


def test_many_pages_are_kept_in_one_write(library: Library) -> None:
    library.add(expert("hub:1@1"), listing("hub:1@1"))
    size = (library.folder / "experts.jsonl").stat().st_size
    found = [(expert(f"hub:{n}@1"), listing(f"hub:{n}@1", description=f"{n}")) for n in (1, 2, 3)]
    library.add_pages(found)
    library.add_pages(found)
    assert [one.ref for one in library.experts()] == ["hub:1@1", "hub:2@1", "hub:3@1"]
    assert library.listing("hub:3@1").description == "3"
    rows = (library.folder / "experts.jsonl").read_bytes()
    assert rows[size:].count(b"\n") == 3, "what is known is not written again"


def test_what_a_page_gained_later_leaves_old_hashes(library: Library) -> None:
    assert page_hash(listing(rating=3.0)) == page_hash(listing())
    assert page_hash(listing(real_person=True)) != page_hash(listing())


def test_the_record_says_where_it_is_from_and_what_was_found(library: Library) -> None:
    file = ListedFile(
        name="a", url="u", sha256="ab" * 32, pickle_scan="Success", virus_scan="Pending"
    )
    page = listing(file=file, page_url="https://hub.example/models/1")
    library.add_pages([(expert(), page)])
    row = library.get("emojihub:1@11")
    assert row.page_url == "https://hub.example/models/1"
    assert (row.stated_sha256, row.pickle_scan, row.virus_scan) == ("ab" * 32, "Success", "Pending")


def test_a_page_that_nobody_points_at_is_swept_away_in_time(library: Library) -> None:
    library.add(expert(), listing())
    for start in range(0, 2 * SPARE_ROWS, 500):
        versions = [listing(description=f"{start + n}") for n in range(500)]
        library.add_pages((expert(), page) for page in versions)
    pages = library.folder / "listings.jsonl"
    before = pages.stat().st_size
    library.sweep()
    assert pages.stat().st_size < before / 100
    assert library.listing("emojihub:1@11").description == str(2 * SPARE_ROWS - 1)


def test_what_a_licence_asks_is_said_in_words() -> None:
    strict = Licence(
        allow_derivatives=False, allow_different_licence=False, credit_required=True, creator="Ann"
    )
    assert strict.duties == (
        "may not be merged",
        "credit Ann",
        "shared under the same licence only",
        "its images may not be sold",
    )
    assert Licence(allow_commercial_use=("Image", "Rent")).duties == ()


@pytest.mark.parametrize(
    "row",
    [b"\0" * 300, b"{}", b"[" * 50_000, b'{"ref": "hub:2@1"', b"\xff\xfe", b'"a"', b"null"],
)
def test_a_damaged_row_is_left_out_and_told_and_the_others_are_read(
    library: Library, row: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    library.add(expert("hub:1@1"), listing("hub:1@1"))
    table = library.folder / "experts.jsonl"
    first = table.read_bytes()
    table.write_bytes(row + b"\n" + first)
    again = Library(library.folder.parent, bundled=())
    assert [one.ref for one in again.experts()] == ["hub:1@1"]
    assert "1 rows are no experts" in caplog.text
    again.add(expert("hub:2@1"), listing("hub:2@1"))
    assert table.read_bytes().startswith(first), "the next writer leaves it out"
    assert table.with_name("experts.jsonl.damaged").read_bytes() == row + b"\n"
    caplog.clear()
    assert len(Library(library.folder.parent, bundled=()).experts()) == 2
    assert not caplog.text


@pytest.mark.parametrize("damage", [b"\0", b"{", b"x"])
def test_a_damaged_page_is_known_to_be_and_kept_again(library: Library, damage: bytes) -> None:
    page = listing(description="as it is")
    row = library.add(expert(), page)
    pages = library.folder / "listings.jsonl"
    data = pages.read_bytes()
    middle = data.index(b'"value":') + len(b'"value":')
    pages.write_bytes(data[:middle] + damage * 20 + data[middle + 20 :])
    again = Library(library.folder.parent, bundled=())
    assert not again.holds_page(row.page_sha256)
    again.add_pages([(row, page)])
    assert again.holds_page(row.page_sha256)
    assert Library(library.folder.parent, bundled=()).listing(row.ref) == page
