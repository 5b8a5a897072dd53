import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import DiffgraphError
from diffgraph.experts.expert import Listing
from diffgraph.families.emoji64 import ASSETS, EMOJI64
from diffgraph.families.emoji64.scorers import SCORERS
from diffgraph.families.stable_diffusion import StableDiffusion
from diffgraph.graph.snapshot import open_snapshot
from diffgraph.planner.planner import Planner
from recipes.emoji64.community import recipe_of
from recipes.emoji64.publish import is_published, publish, publish_graph
from recipes.emoji64.scorer_files import untrained, write_scorer
from recipes.emoji64.stages import TOKENIZER
from recipes.emoji64.unusable import lora

COMMUNITY = (recipe_of("night"), recipe_of("sepia"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_parts, tokenizer, text_encoder):
    """What training leaves behind, untrained and small."""
    model, _ = tiny_model_parts
    folder = tmp_path_factory.mktemp("made")
    model.unet.save_pretrained(folder / "base" / "unet")
    model.vae.save_pretrained(folder / "base" / "vae")
    text_encoder.save_pretrained(folder / "base" / "text_encoder")
    model.scheduler.save_pretrained(folder / "base" / "scheduler")
    tokenizer.save_pretrained(folder / "base" / "tokenizer")
    (folder / "base" / "training.json").write_text('{"pictures": 30}')
    (folder / "weights").mkdir()
    for number, recipe in enumerate(COMMUNITY, 1):
        (folder / "weights" / f"{recipe.slug}.safetensors").write_bytes(lora(number / 100))
        (folder / "weights" / f"{recipe.slug}.json").write_text(json.dumps({"steps": number}))
    write_scorer(untrained(SCORERS["hps"], tokenizer), folder / "scorers" / "hps")
    return folder


@pytest.fixture(scope="module")
def assets(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "assets"
    (folder / "prompts").mkdir(parents=True)
    (folder / "prompts" / "bench.jsonl").write_text("kept")
    (folder / "scorers" / "outdated").mkdir(parents=True)
    publish(made, folder, community=COMMUNITY)
    return folder


def test_the_family_can_be_loaded_from_what_was_published(made, assets):
    model = StableDiffusion.from_folder("emoji64", assets / "base", EMOJI64.sampler)
    expected = load_file(made / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(model.parameters()[f"unet.{name}"], value)


def test_the_hub_can_be_crawled_and_shows_pictures(made, assets):
    listings = list(FolderCrawler(assets / "hub").listings())
    for recipe in COMMUNITY:
        file = f"files/{recipe.slug}.safetensors"
        weights = (made / "weights" / f"{recipe.slug}.safetensors").read_bytes()
        assert (assets / "hub" / file).read_bytes() == weights
        pictures = sorted((assets / "hub" / "images").glob(f"{recipe.slug}-*.webp"))
        assert len(pictures) == 3
        assert Image.open(pictures[0]).size == (64, 64)
    found = {str(listing.ref) for listing in listings if isinstance(listing, Listing)}
    assert found >= {recipe.ref for recipe in COMMUNITY}


def test_how_everything_was_trained_ships(assets):
    told = json.loads((assets / "training.json").read_text())
    assert told["base"] == {"pictures": 30}
    assert told["experts"] == {"night": {"steps": 1}, "sepia": {"steps": 2}}


def test_what_was_there_before_goes_and_what_is_not_made_stays(assets):
    assert not (assets / "scorers" / "outdated").exists()
    assert (assets / "scorers" / "hps" / "config.json").is_file()
    assert (assets / "prompts" / "bench.jsonl").read_text() == "kept"
    assert {path.name for path in (assets / "base" / "tokenizer").iterdir()} >= {
        path.name for path in TOKENIZER.iterdir() if path.suffix == ".json"
    }


def test_what_is_published_is_not_published_again(made, assets):
    stamps = {path: path.stat().st_mtime_ns for path in assets.rglob("*")}
    publish(made, assets, community=COMMUNITY)
    assert stamps == {path: path.stat().st_mtime_ns for path in assets.rglob("*")}


def test_a_half_published_family_is_not_taken_for_a_whole_one(made, assets, tmp_path):
    assert is_published(made, assets, COMMUNITY)
    assert not is_published(made, tmp_path, COMMUNITY)
    text = (assets / "training.json").read_text()
    (assets / "training.json").write_text(text.replace("30", "31"))
    try:
        assert not is_published(made, assets, COMMUNITY)
    finally:
        (assets / "training.json").write_text(text)


class TestGraph:
    """A graph and a planner take the place of those before them, whole or not at all."""

    @pytest.fixture
    def package(self, tmp_path):
        folder = tmp_path / "assets"
        for name in ("snapshot", "planner"):
            shutil.copytree(ASSETS / name, folder / name)
        return folder

    def test_they_are_replaced_and_can_be_read(self, package, tmp_path):
        before = Planner.load(package / "planner")
        config = before.config.model_copy(update={"seed": 123})
        fresh = Planner.new(config)
        fresh.save(tmp_path / "trained")
        (tmp_path / "trained" / "checkpoints").mkdir()
        publish_graph(ASSETS / "snapshot", tmp_path / "trained", package)
        again = Planner.load(package / "planner")
        assert again.config == fresh.config  # with the hash of the weights that were saved
        assert again.config.seed == 123
        for name, value in fresh.vgae.state_dict().items():
            torch.testing.assert_close(again.vgae.state_dict()[name], value)
        assert not (package / "planner" / "checkpoints").exists()
        assert open_snapshot(package / "snapshot", None).id == before.config.snapshot

    @pytest.mark.parametrize("lost", ["snapshot", "planner"])
    def test_what_is_not_whole_replaces_nothing(self, package, tmp_path, lost):
        given = {name: ASSETS / name for name in ("snapshot", "planner")}
        (tmp_path / "empty").mkdir()
        given[lost] = tmp_path / "empty"
        before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
        with pytest.raises(DiffgraphError):
            publish_graph(given["snapshot"], given["planner"], package)
        assert before == {p: p.read_bytes() for p in package.rglob("*") if p.is_file()}
