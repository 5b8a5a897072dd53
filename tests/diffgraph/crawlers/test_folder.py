"""A hub folder gives its listings in a stable order, and its files checked."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import DamagedFile, MissingInput, StorageError, UnusableListing
from diffgraph.experts.expert import ExpertRef, ListedFile, Listing
from diffgraph.experts.reading import read_delta

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    for name in ("models", "files"):
        (folder / name).mkdir(parents=True)
    (folder / "hub.json").write_text('{"name": "testhub"}')
    (folder / "files/a.safetensors").write_bytes(CONTENT)
    for number in (10, 9, 11):
        versions = [{"id": number * 10 + step, "baseModel": "emoji64"} for step in (2, 1)]
        page = {"id": number, "name": f"expert {number}", "modelVersions": versions}
        (folder / f"models/{number}.json").write_text(json.dumps(page))
    return folder


def listing(url: str = "files/a.safetensors", sha256: str = SHA256) -> Listing:
    file = ListedFile(name="a.safetensors", url=url, sha256=sha256)
    return Listing(ref=ExpertRef(source="testhub", model="1", version="2"), name="a", file=file)


def test_every_version_is_listed_in_a_stable_order(hub: Path) -> None:
    crawler = FolderCrawler(hub)
    refs = [str(entry.ref) for entry in crawler.listings() if isinstance(entry, Listing)]
    assert refs == [
        "testhub:10@102", "testhub:10@101", "testhub:11@112", "testhub:11@111",
        "testhub:9@92", "testhub:9@91",
    ]  # fmt: skip
    assert list(crawler.listings()) == list(FolderCrawler(hub).listings())
    assert len(crawler.pages) == 3


def test_a_file_is_copied_whole(hub: Path, tmp_path: Path) -> None:
    copy = FolderCrawler(hub).fetch(listing(), tmp_path / "out")
    assert copy.read_bytes() == CONTENT
    assert copy.parent == tmp_path / "out"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [copy.name]


def test_what_peft_states_beside_a_file_goes_with_its_copy(hub: Path, tmp_path: Path) -> None:
    """Its alpha is there alone: the weights without it would be merged at another strength."""
    name = "files/glow/adapter_model.safetensors"
    (hub / name).parent.mkdir()
    weights = save({"line.lora_A.weight": torch.ones(2, 3), "line.lora_B.weight": torch.ones(4, 2)})
    (hub / name).write_bytes(weights)
    (hub / name).with_name("adapter_config.json").write_text('{"lora_alpha": 8}')
    stated = hashlib.sha256(weights).hexdigest()
    copy = FolderCrawler(hub).fetch(listing(name, stated), tmp_path / "out")
    delta = read_delta(copy, {"unet.line.weight": torch.zeros(4, 3)})
    assert torch.equal(delta.updates["unet.line.weight"].dense(), torch.full((4, 3), 8.0))


def test_a_file_without_a_stated_hash_is_taken_as_it_is(hub: Path, tmp_path: Path) -> None:
    assert FolderCrawler(hub).fetch(listing(sha256=""), tmp_path).read_bytes() == CONTENT


def test_another_file_than_the_page_speaks_of_is_damaged(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="its page says 000000000000") as failure:
        FolderCrawler(hub).fetch(listing(sha256="0" * 64), tmp_path / "out")
    assert SHA256[:12] in str(failure.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_file_is_named(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableListing, match=r"missing.*files/b\.safetensors"):
        FolderCrawler(hub).fetch(listing("files/b.safetensors"), tmp_path)


def test_a_target_that_cannot_be_written_is_our_trouble(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="cannot write"):
        FolderCrawler(hub).fetch(listing(), tmp_path / "out")


@pytest.mark.parametrize("remove", ["", "hub.json", "models"])
def test_a_folder_that_is_no_hub_is_named(remove: str, tmp_path: Path) -> None:
    folder = tmp_path / "nohub"
    if remove:
        folder.mkdir()
        if remove != "hub.json":
            (folder / "hub.json").write_text('{"name": "x"}')
    with pytest.raises(MissingInput, match="nohub") as failure:
        FolderCrawler(folder)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["civitai", "huggingface"])
def test_a_folder_does_not_speak_for_a_live_hub(tmp_path, name):
    """Whoever it does not show would be retired, and its pages would replace that hub's."""
    (tmp_path / "models").mkdir()
    (tmp_path / "hub.json").write_text(json.dumps({"name": name}))
    with pytest.raises(MissingInput, match=f"gives itself the name '{name}', as the live hub"):
        FolderCrawler(tmp_path)
