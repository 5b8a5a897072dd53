"""The hub folder is a hub: crawled, it gives the community, and refuses who should be refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from diffgraph.crawlers.discovery import Discovery, discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import MissingInput
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from recipes.emoji64.community import COMMUNITY
from recipes.emoji64.hub import example_prompts, write_hub
from recipes.emoji64.unusable import UNUSABLE, lora

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_model_parts: Any) -> Path:
    """A small, real file for every expert."""
    folder = tmp_path_factory.mktemp("weights")
    layer = tiny_model_parts[1][LAYER]
    for number, recipe in enumerate(COMMUNITY, 1):
        path = folder / f"{recipe.slug}.safetensors"
        if recipe.kind == "checkpoint":
            save_file({LAYER: (layer + number / 100).contiguous()}, path)
        else:
            path.write_bytes(lora(number / 100))
    return folder


@pytest.fixture(scope="module")
def hub(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("images")
    (images / "sepia-1.webp").write_bytes(b"RIFF")
    return write_hub(weights, tmp_path_factory.mktemp("out") / "hub", images)


@pytest.fixture(scope="module")
def library(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("home"), bundled=[hub])


@pytest.fixture(scope="module")
def report(hub: Path, library: Library, tiny_model_parts: Any) -> Discovery:
    return discover(
        FolderCrawler(hub), library, get_family("emoji64"), parameters=tiny_model_parts[1]
    )


def test_every_expert_is_found(report: Discovery, library: Library) -> None:
    replaced = {recipe.supersedes for recipe in COMMUNITY}
    assert {expert.ref for expert in library.experts("ready")} == {
        recipe.ref for recipe in COMMUNITY if recipe.slug not in replaced
    }
    assert {expert.ref for expert in report.superseded} == {
        recipe.ref for recipe in COMMUNITY if recipe.slug in replaced
    }
    assert not report.broken + report.failed
    assert not report.unchanged
    for recipe in COMMUNITY:
        assert library.get(recipe.ref).kind == recipe.kind


def test_bundled_files_are_not_copied(report: Discovery, library: Library, hub: Path) -> None:
    for expert in report.new:
        assert library.path_of(expert.sha256).parent == hub / "files"
    assert not (library.folder / "files").exists()


@pytest.mark.parametrize(
    ("page", "status", "reason"),
    [
        (3101, "registered_only", "derivatives"),
        (3102, "rejected", "could run code"),
        (3103, "rejected", "SD 1.5"),
        (3104, "rejected", "chalkboard|3104"),
        (3105, "rejected", "NaN"),
        (3106, "rejected", "early access"),
        (3107, "rejected", "SHA-256"),
        (3108, "rejected", "320"),
        (3109, "rejected", "TextualInversion"),
        (3110, "rejected", "Danger"),
    ],
)
def test_who_must_be_refused_is(
    page: int, status: str, reason: str, report: Discovery, library: Library
) -> None:
    (expert,) = [one for one in library.experts() if one.ref.startswith(f"emojihub:{page}@")]
    assert expert.status == status
    assert any(part in expert.reason for part in reason.split("|")), expert.reason
    assert "\n" not in expert.reason
    assert expert in (*report.rejected, *report.registered_only)


def test_all_unusable_pages_are_tried() -> None:
    assert [page.number for page in UNUSABLE] == list(range(3101, 3111))


def test_the_same_weights_give_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    first, second = write_hub(weights, tmp_path / "a"), write_hub(weights, tmp_path / "b")
    assert _digests(first) == _digests(second)


def test_an_old_hub_is_replaced(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "hub/models").mkdir(parents=True)
    (tmp_path / "hub/models/1.json").write_text("old")
    write_hub(weights, tmp_path / "hub")
    assert not (tmp_path / "hub/models/1.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="sepia"):
        write_hub(tmp_path, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_pages_recommend_the_strength_the_file_was_scaled_for(hub: Path) -> None:
    text = (hub / "models/2104.json").read_text(encoding="utf-8")
    assert "weight to 0.7" in text
    assert not any("{strength}" in page.read_text() for page in (hub / "models").glob("*.json"))


def test_example_images_are_shown_where_they_were_drawn(hub: Path) -> None:
    found = {
        str(listing.ref): listing
        for listing in FolderCrawler(hub).listings()
        if isinstance(listing, Listing)
    }
    sepia = next(recipe for recipe in COMMUNITY if recipe.slug == "sepia")
    images = found[sepia.ref].images
    assert tuple(image.prompt for image in images) == example_prompts(sepia)
    assert [image.url for image in images] == ["", "images/sepia-1.webp", ""]
    assert (hub / images[1].url).is_file()


def test_the_hub_tells_where_its_files_are(hub: Path) -> None:
    files = json.loads((hub / "hub.json").read_bytes())["files"]
    assert len(files) == len(COMMUNITY)
    for sha256, path in files.items():
        assert hashlib.sha256((hub / path).read_bytes()).hexdigest() == sha256


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
