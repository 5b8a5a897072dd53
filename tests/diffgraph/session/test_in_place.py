"""Before experts are measured, each file that was known by its header is hashed and read whole."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffgraph.artifacts import sha256_of
from diffgraph.experts.library import Library
from diffgraph.progress import listening
from diffgraph.session import in_place
from diffgraph.session.in_place import read_files_in_place, unread_in_place
from tests.diffgraph.crawlers.test_files_in_place import PARAMETERS, SD15, look, write


@pytest.fixture
def stocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library that knows three files by their headers, and a base of one layer."""
    small = SimpleNamespace(parameters=lambda: PARAMETERS)
    monkeypatch.setattr(in_place, "get_family", lambda _: replace(SD15, load=lambda _: small))
    top, library = tmp_path / "loras", Library(tmp_path / "home", bundled=())
    for name, value in (("a", 0.1), ("bad", float("nan")), ("gone", 0.3)):
        write(top / f"{name}.safetensors", value)
    assert len(look(top, library).new) == 3
    (top / "gone.safetensors").unlink()
    return library


def test_each_is_ready_refused_or_left_as_it_was(stocked: Library, tmp_path: Path) -> None:
    failed = read_files_in_place(tmp_path / "home", "sd15")
    rows = {expert.name: expert for expert in stocked.experts()}
    assert rows["a"].sha256 == sha256_of(tmp_path / "loras/a.safetensors")
    assert rows["a"].coverage is not None
    assert (rows["bad"].status, rows["gone"].status) == ("rejected", "ready")
    assert failed.keys() == {rows["bad"].ref, rows["gone"].ref}
    assert "NaN" in failed[rows["bad"].ref]
    assert "is missing" in failed[rows["gone"].ref]
    assert [expert.name for expert in unread_in_place(stocked, "sd15")] == ["gone"]


def test_it_tells_how_far_it_is_in_megabytes(stocked: Library, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int | None]] = []
    with listening(lambda stage, done, total, _: heard.append((stage, done, total))):
        read_files_in_place(tmp_path / "home", "sd15")
    total = sum(expert.size_bytes for expert in stocked.experts()) // 1_000_000
    assert {(stage, of) for stage, _, of in heard} == {("hash, MB", total)}
    assert len(stocked.references.path.read_text().splitlines()) == 2
