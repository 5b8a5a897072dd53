"""What may stand where a file should: each is refused by name, and the other experts are taken."""

import json
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffgraph.crawlers.discovery import Discovery, discover
from diffgraph.crawlers.folder import PAGE_VALUES, FolderCrawler
from diffgraph.errors import DamagedFile, MissingInput
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.experts.weights_file import (
    MAX_HEADER_BYTES,
    MAX_HEADER_VALUES,
    MAX_TENSORS,
    open_weights,
)
from diffgraph.families import get_family
from diffgraph.foreign_files import FEW_BYTES, open_foreign, parse_json, read_foreign
from tests.hostile.files import entry, with_header

LAYER = "unet.mid.to_q"
BASE = {f"{LAYER}.weight": torch.ones(6, 4)}
MOST_MEMORY = 200 << 20  # bytes


class Hub:
    """A hub folder of two experts; the second is in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hub"
        self.home = folder / "home"
        for name in ("models", "files"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "hub.json").write_text('{"name": "hub"}')
        for number in (1, 2):
            file = {"downloadUrl": f"files/{number}.safetensors", "sizeKB": 1}
            version = {"id": number, "baseModel": "emoji64", "files": [file]}
            page = {"id": number, "name": "Glow", "type": "LORA", "modelVersions": [version]}
            self.page(number).write_text(json.dumps(page))
            down, up = torch.ones(1, 4), torch.ones(6, 1)
            save_file({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up},
                      self.file(number))  # fmt: skip

    def page(self, number: int) -> Path:
        return self.folder / f"models/{number}.json"

    def file(self, number: int) -> Path:
        return self.folder / f"files/{number}.safetensors"

    def discover(self) -> Discovery:
        library = Library(self.home, bundled=())
        crawler = FolderCrawler(self.folder)
        return discover(crawler, library, get_family("emoji64"), parameters=BASE)

    def unused_bytes(self) -> int:
        """What has been copied besides the good expert."""
        files = [path for path in self.home.rglob("*") if path.is_file()]
        good = self.file(2).read_bytes()
        weights = [p for p in files if p.suffix in {".safetensors", ".part"}]
        return sum(p.stat().st_size for p in weights if p.read_bytes() != good)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket is at most a hundred characters long
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def a_folder(path: Path) -> None:
    path.mkdir()


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_circle(path: Path) -> None:
    path.symlink_to(path.with_suffix(".other"))
    path.with_suffix(".other").symlink_to(path)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def a_link_outside(path: Path) -> None:
    outside = path.parent.parent.parent / "outside"
    outside.write_bytes(b"{}")
    path.symlink_to(outside)


def a_hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


def something_unreadable(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


STANDS_THERE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (a_pipe, "is a pipe"),
    "a socket": (a_socket, "is a socket"),
    "a folder": (a_folder, "is a folder"),
    "an endless device": (an_endless_device, "outside"),
    "a circle": (a_circle, "circle"),
    "a link to itself": (a_link_to_itself, "circle"),
    "a link to nothing": (a_link_to_nothing, "missing"),
    "a link outside": (a_link_outside, "outside"),
    "a hole": (a_hole, "3221225472 bytes"),
    "unreadable": (something_unreadable, "Permission denied"),
}
stands_there = pytest.mark.parametrize("kind", STANDS_THERE)


@pytest.fixture
def rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without any permission are shut, even to root."""
    really = os.open

    def open_if_allowed(path: Any, *arguments: Any, **more: Any) -> int:
        if isinstance(path, str | Path) and os.path.isfile(path):
            if not os.stat(path).st_mode & 0o777:
                raise PermissionError(13, "Permission denied")
        return really(path, *arguments, **more)

    monkeypatch.setattr(os, "open", open_if_allowed)


@stands_there
@pytest.mark.usefixtures("rights")
def test_whatever_stands_for_weights_is_refused_and_the_next_expert_is_taken(
    kind: str, hub: Hub
) -> None:
    place, reason = STANDS_THERE[kind]
    hub.file(1).unlink()
    place(hub.file(1))
    report = hub.discover()
    assert [expert.ref for expert in report.new] == ["hub:2@2"]
    (refused,) = report.rejected
    assert reason in refused.reason
    assert "1.safetensors" in refused.reason
    assert "\n" not in refused.reason
    assert hub.unused_bytes() == 0


@stands_there
@pytest.mark.usefixtures("rights")
def test_whatever_stands_for_a_page_is_named_and_the_next_one_is_read(kind: str, hub: Hub) -> None:
    place, reason = STANDS_THERE[kind]
    hub.page(1).unlink()
    place(hub.page(1))
    report = hub.discover()
    assert [expert.ref for expert in report.new] == ["hub:2@2"]
    (broken,) = report.broken
    assert broken.where == "models/1.json"
    assert reason in broken.reason


@stands_there
@pytest.mark.usefixtures("rights")
def test_whatever_stands_for_the_hubs_description_is_named(kind: str, hub: Hub) -> None:
    place, reason = STANDS_THERE[kind]
    (hub.folder / "hub.json").unlink()
    place(hub.folder / "hub.json")
    with pytest.raises(MissingInput, match=reason):
        FolderCrawler(hub.folder)


def test_a_page_that_broke_keeps_the_expert_that_was_found_on_it(hub: Hub) -> None:
    hub.discover()
    hub.page(1).unlink()
    a_pipe(hub.page(1))
    assert hub.discover().retired == ()


def test_pages_that_cannot_be_listed_are_not_taken_for_none(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.discover()
    crawler = FolderCrawler(hub.folder)
    (hub.folder / "models").rename(hub.folder / "elsewhere")
    library = Library(hub.home, bundled=())
    with pytest.raises(MissingInput, match="models/"):
        discover(crawler, library, get_family("emoji64"), parameters=BASE)
    assert len(library.experts("ready")) == 2


def test_a_name_that_is_no_text_is_told_harmlessly(hub: Hub) -> None:
    with open(os.fsencode(hub.folder) + b"/models/\xff\x1b[2J.json", "wb") as file:
        file.write(b"{")
    (broken,) = hub.discover().broken
    broken.model_dump_json().encode()
    assert "\x1b" not in broken.where


def test_a_file_a_little_larger_than_its_page_says_is_taken(hub: Hub) -> None:
    assert hub.file(1).stat().st_size > 200
    page = json.loads(hub.page(1).read_text())
    page["modelVersions"][0]["files"][0]["sizeKB"] = 0.1
    hub.page(1).write_text(json.dumps(page))
    assert len(hub.discover().new) == 2


def test_a_stranger_is_never_waited_for(tmp_path: Path) -> None:
    for kind, (place, _) in STANDS_THERE.items():
        if kind in {"a link outside", "unreadable"}:
            continue  # links may lead anywhere in a folder of one's own
        path = tmp_path / f"{kind}.safetensors"
        place(path)
        with pytest.raises(MissingInput):
            open_foreign(path, 1 << 20)
        with pytest.raises((MissingInput, DamagedFile)):
            open_weights(path)


def test_a_file_that_grows_is_not_read_for_ever(tmp_path: Path) -> None:
    path = Path("/proc/self/maps")  # a plain file that says it is empty
    if path.exists():
        with pytest.raises(MissingInput, match="10 at most"):
            read_foreign(path, 10)


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.symlink_to("/proc/self/mem")  # a plain file whose first bytes cannot be read
    with pytest.raises(DamagedFile, match=r"x\.safetensors: cannot be read"):
        open_weights(path)


# headers


IMPOSSIBLE = {
    "numbers that overflow": [1 << 61, 1 << 61, 0],
    "the zero first": [0, 1 << 61, 1 << 61],
    "as many as 63 bits say": [1 << 31, 1 << 32, 0],
    "three large and none": [1 << 21, 1 << 21, 1 << 22, 0],
}


@pytest.mark.parametrize("shape", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_empty_tensor_of_an_impossible_shape_is_refused(shape: list[int], hub: Hub) -> None:
    hub.file(1).write_bytes(with_header({"a": entry(shape, 0, 0)}))
    report = hub.discover()
    assert [expert.ref for expert in report.new] == ["hub:2@2"]
    assert "'a' has an impossible shape" in report.rejected[0].reason


def test_what_no_reader_foresaw_costs_one_expert_only(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffgraph.experts import reading

    really = reading._inspected

    def falls_over_the_first(delta: Any) -> Any:
        if delta.file_name.startswith("1-"):
            raise OverflowError("too large\nby far")
        return really(delta)

    monkeypatch.setattr(reading, "_inspected", falls_over_the_first)
    report = hub.discover()
    assert [expert.ref for expert in report.new] == ["hub:2@2"]
    (refused,) = report.rejected
    assert refused.reason == "1-1.safetensors: cannot be read (OverflowError: too large)"


def _many_entries(count: int) -> bytes:
    one = '"w%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(one % number for number in range(count)) + "}").encode()


def _long_names(count: int) -> bytes:
    name = "a." * 4_900
    return json.dumps({f"{name}{number}": entry([0], 0, 0) for number in range(count)}).encode()


COSTLY = {
    "too many tensors": lambda: _many_entries(MAX_TENSORS + 1),
    "millions of tensors": lambda: _many_entries(280_000),
    "millions of lists": lambda: b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
    "lists in lists": lambda: b"[" * 15_000_000,
    "objects in objects": lambda: b'{"a":' * 3_000_000,
    "a million remarks": lambda: (
        b'{"__metadata__":{' + b",".join(b'"%d":""' % n for n in range(1_300_000)) + b"}}"
    ),
    "a shape of a million sizes": lambda: (
        b'{"a":{"dtype":"F32","shape":[' + b"0," * 1_000_000 + b'0],"data_offsets":[0,0]}}'
    ),
    "a number of a million digits": lambda: b'{"a":' + b"9" * 1_000_000 + b"}",
    "names of megabytes": lambda: _long_names(1_500),
    "a name without an end": lambda: json.dumps({"a" * 10_001: entry([0], 0, 0)}).encode(),
    "too long": lambda: b" " * (MAX_HEADER_BYTES + 1),
}


@pytest.mark.parametrize("header", COSTLY.values(), ids=COSTLY)
def test_a_header_that_would_cost_too_much_is_refused_before_it_does(
    header: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    text = header()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFile, match=r"x\.safetensors"):
            open_weights(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_a_header_with_megabytes_of_remarks_is_read(tmp_path: Path) -> None:
    """Trainers keep their whole statistics as one text: what looks like JSON in it is none."""
    tags = json.dumps({f"tag {number}, [x] {{y}}": number for number in range(60_000)})
    assert len(tags) > FEW_BYTES
    assert tags.count(",") + tags.count("{") > MAX_HEADER_VALUES / 2
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"__metadata__": {"ss_tag_frequency": tags * 3}}))
    file = open_weights(path)
    assert file.metadata["ss_tag_frequency"] == tags * 3


def test_a_page_of_too_many_values_is_refused(hub: Hub) -> None:
    hub.page(1).write_bytes(b'{"id": 1, "x": [' + b"[]," * (PAGE_VALUES + 1) + b"[]]}")
    report = hub.discover()
    assert f"more than {PAGE_VALUES} values" in report.broken[0].reason
    assert [expert.ref for expert in report.new] == ["hub:2@2"]


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"{", b'{"a": NaN', b"\xff\xfe[\0]\0"])
def test_json_that_is_none_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(data, 10)


def test_a_byte_order_mark_is_no_part_of_json() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1]}', 10) == {"a": [1]}


def test_a_cut_of_a_mapped_file_is_told_before_it_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4096, 16)}, path)
    file = open_weights(path)
    os.truncate(path, 8192)
    with pytest.raises(DamagedFile, match="cut short"):
        file.tensor("a")


def test_a_listed_file_without_a_size_is_read(hub: Hub) -> None:
    page = json.loads(hub.page(1).read_text())
    del page["modelVersions"][0]["files"][0]["sizeKB"]
    hub.page(1).write_text(json.dumps(page))
    assert len(hub.discover().new) == 2


def test_every_listing_is_read_while_one_page_is_a_pipe(hub: Hub) -> None:
    a_pipe(hub.page(3))
    found = list(FolderCrawler(hub.folder).listings())
    assert [type(entry) is Listing for entry in found] == [True, True, False]
