"""docs/adding-a-hub.md, word by word."""

from pathlib import Path

import pytest

from diffgraph.crawlers.discovery import discover
from diffgraph.errors import InputError
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.session.hubs import hub_of, opened
from diffgraph.session.overrides import NO_OVERRIDES
from recipes.emoji64.unusable import lora
from tests.diffgraph.extending.packages import Install, files_of


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    for number, name in enumerate(("sepia", "night"), 1):
        (folder / f"{name}.safetensors").write_bytes(lora(number / 50))
    (folder / "torn.safetensors").write_bytes(lora(0.5)[:-100])
    monkeypatch.setenv("SHELF", str(folder))
    return folder


@pytest.mark.usefixtures("shelf")
def test_its_experts_are_found_without_a_path(install: Install, tmp_path: Path) -> None:
    install(files_of("adding-a-hub.md"))
    hub = hub_of("shelf", None, None, "emoji64")
    assert str(hub) == "shelf"
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    with opened(hub, library, family, None, NO_OVERRIDES) as (crawler, total):
        found = discover(crawler, library, family)
    assert total is None
    assert [expert.ref for expert in found.new] == ["shelf:night@1", "shelf:sepia@1"]
    (torn,) = found.rejected
    assert torn.ref == "shelf:torn@1"


def test_a_path_is_handed_on_and_who_has_gone_is_retired(
    install: Install, shelf: Path, tmp_path: Path
) -> None:
    install(files_of("adding-a-hub.md"))
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    other = tmp_path / "other"
    other.mkdir()
    (other / "sepia.safetensors").write_bytes(lora(0.02))
    retired = []
    for place in (None, other):
        hub = hub_of("shelf", place, None, "emoji64")
        with opened(hub, library, family, None, NO_OVERRIDES) as (crawler, _):
            retired = [expert.ref for expert in discover(crawler, library, family).retired]
    assert "shelf:night@1" in retired
    assert "shelf:sepia@1" not in retired


@pytest.mark.usefixtures("shelf")
def test_it_speaks_for_no_other_hub(install: Install, tmp_path: Path) -> None:
    files = files_of("adding-a-hub.md")
    ours = files["diffgraph_shelf.py"]
    install(
        files
        | {"diffgraph_shelf.py": ours.replace('ExpertRef(source="shelf"', 'ExpertRef(source="x"')}
    )
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    hub = hub_of("shelf", None, None, "emoji64")
    with opened(hub, library, family, None, NO_OVERRIDES) as (crawler, _):
        found = discover(crawler, library, family)
    assert not library.experts()
    assert {page.where for page in found.broken} == {"x:night@1", "x:sepia@1", "x:torn@1"}


@pytest.mark.usefixtures("shelf")
def test_a_crawler_of_another_name_is_refused(install: Install, tmp_path: Path) -> None:
    files = files_of("adding-a-hub.md")
    text = files["diffgraph_shelf.py"].replace('source = "shelf"', 'source = "civitai"')
    install(files | {"diffgraph_shelf.py": text})
    hub, library = hub_of("shelf", None, None, "emoji64"), Library(tmp_path / "home")
    with (
        pytest.raises(InputError, match="the hub shelf calls itself 'civitai'"),
        opened(hub, library, get_family("emoji64"), None, NO_OVERRIDES),
    ):
        pass
