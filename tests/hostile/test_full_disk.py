"""A disk without room: the system itself refuses to write more, and nothing half-written stays."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diffgraph.artifacts import sha256_of, write_bytes
from diffgraph.errors import StorageError
from diffgraph.experts.expert import Expert, ExpertRef, Listing
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.merging.base_files import open_base
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.to_file import FileMerge

ROOM = 1 << 16


@contextmanager
def little_room() -> Iterator[None]:
    """Let no file of this process grow beyond a limit, as if its disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_merged_model(tmp_path: Path) -> None:
    base = open_base(get_family("emoji64"))
    path = tmp_path / "merged.safetensors"
    merge = FileMerge(MergePlan(family="emoji64"), {}, base)
    with little_room(), pytest.raises(StorageError, match=r"merged\.safetensors"):
        merge.write(path, single_file(base), torch.float16, {})
    assert not list(tmp_path.iterdir())


def test_any_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"what was there before")
    with little_room(), pytest.raises(StorageError, match=r"report\.html"):
        write_bytes(path, bytes(ROOM + 1))
    assert path.read_bytes() == b"what was there before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_the_library_takes_in(tmp_path: Path) -> None:
    file = tmp_path / "expert.safetensors"
    file.write_bytes(b"weights")
    library = Library(tmp_path / "home", bundled=())
    ref = "hub:1@2"
    listing = Listing(ref=ExpertRef.parse(ref), name="x", description="x" * 2 * ROOM)
    expert = Expert(ref=ref, name="x", kind="peft", family="emoji64", sha256=sha256_of(file))
    with little_room(), pytest.raises(StorageError):
        library.add(expert, listing, file)
    assert library.find(ref) is None
    assert Library(tmp_path / "home", bundled=()).experts() == ()
    library.add(expert, listing, file)
    assert library.listing(ref).description == listing.description
