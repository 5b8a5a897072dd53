"""docs/adding-a-family.md, word by word."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffgraph.crawlers.examining import DiscoveryConfig, examine
from diffgraph.experts.expert import ExpertRef, ListedFile, Listing
from diffgraph.families import FAMILIES, Family, get_family
from diffgraph.scoring import get_scorers, identity_of, score
from tests.diffgraph.extending.packages import files_of

PROMPTS, SEEDS = ["a fox"], [3]


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """The page's family, with its line in `FAMILIES`."""
    ((name, text),) = files_of("adding-a-family.md").items()
    assert name == "diffgraph/families/emoji64_quick.py"
    file = tmp_path / Path(name).name
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("emoji64_quick", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "emoji64_quick", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(FAMILIES, "emoji64_quick", module.QUICK)  # type: ignore[arg-type]
    return module.QUICK


def test_its_images_are_those_of_its_base_on_the_same_noise(quick: Family) -> None:
    assert get_family("emoji64_quick") is quick
    model = quick.load("cpu")
    assert model.family == "emoji64_quick"
    theirs = get_family("emoji64").load("cpu").sample(PROMPTS, SEEDS, quick.sampler)
    assert torch.equal(model.sample(PROMPTS, SEEDS), theirs)
    scores = score(get_scorers(quick), theirs, PROMPTS)
    assert torch.isfinite(scores).all()
    assert identity_of("emoji64_quick") == identity_of("emoji64")


def test_experts_of_its_hub_names_are_its_own(quick: Family) -> None:
    listing = Listing(
        ref=ExpertRef(source="x", model="1", version="1"),
        name="Sepia",
        type="LORA",
        base_model="emoji64_quick",
        file=ListedFile(name="a.safetensors", url="a.safetensors", format="SafeTensor"),
    )
    assert examine(listing, quick, DiscoveryConfig()) is None
    assert examine(listing, get_family("emoji64"), DiscoveryConfig()) is not None
    assert examine(listing.model_copy(update={"base_model": "emoji64"}), quick) is not None
