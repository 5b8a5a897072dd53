"""A library can be planned with as soon as it is discovered; what is measured stays measured."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save_file

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.calibration import CalibrationConfig, part_path
from diffgraph.graph.in_force import open_in_force
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.graph.schema import ExpertNode, PromptNode
from diffgraph.graph.snapshot import GraphSnapshot, current_id, write_snapshot
from diffgraph.homes import family_folder
from diffgraph.merging.plan import MergePlan
from diffgraph.session import Session
from diffgraph.session.building import (
    GraphBuilder,
    register,
    scores_folder,
    write,
    write_interim,
)
from diffgraph.session.overrides import Overrides
from diffgraph.session.registering import register_library
from diffgraph.tables import write_table
from tests.diffgraph.conftest import make_prompts, make_scores
from tests.small_hub import write_hub

SEPIA = "smallhub:9003@90031"
QUICK = Overrides(tables={"sampler": {"steps": 2}})


class Chosen(NamedTuple):
    prompt: str
    refs: tuple[str, ...]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    hub = FolderCrawler(write_hub(tmp_path / "hub"))
    discover(hub, Library(home, bundled=()), get_family("emoji64"))
    return home


def test_nothing_is_written_for_an_empty_library(tmp_path):
    assert register_library(tmp_path / "home", "emoji64") is None
    assert not (tmp_path / "home").exists()


def test_a_discovered_library_is_planned_with_at_its_pages_strengths(home):
    graph = register_library(home, "emoji64")
    assert graph is not None
    assert (len(graph.refs), graph.calibrated) == (4, ())
    decision = Session(home, "emoji64", "cpu").decide("a cat, sepia")
    assert decision.plan.coefficients()[SEPIA] == 0.9  # as its page says
    assert "not calibrated yet: strengths are the pages'" in decision.selection.lines()


@pytest.fixture
def half_measured(home: Path) -> GraphSnapshot:
    """A built graph in which all but the sepia expert are scored, and that one came later."""
    graph = register_library(home, "emoji64")
    others = [ref for ref in graph.refs if ref != SEPIA]
    builder, prompts = GraphBuilder(home, "emoji64"), make_prompts()
    vectors, _ = builder.embeddings.embed(list(graph.texts), builder.session.embedder)
    nodes = [
        ExpertNode(expert, card, vector)
        for (expert, card), vector in zip(builder.described, vectors, strict=True)
        if expert.ref != SEPIA
    ]
    write_snapshot(
        family_folder(home, "emoji64"), "emoji64", nodes, prompts, make_scores(others, prompts),
        SamplerConfig(), "tests",
    )  # fmt: skip
    return register_library(home, "emoji64")


class TestWhatIsMeasured:
    def test_stays_measured_when_others_come(self, half_measured):
        assert len(half_measured.refs) == 4
        assert set(half_measured.calibrated) == set(half_measured.refs) - {SEPIA}
        assert half_measured.manifest.uncalibrated == (SEPIA,)
        assert half_measured.manifest.scorers == "tests"

    def test_is_planned_by_the_planner_beside_a_page(self, home, half_measured):
        session = Session(home, "emoji64", "cpu")
        prompt = "a cat, at night, sepia"
        plan, selection = session.plan(prompt), session.select(prompt)
        night = "smallhub:9002@90021"
        assert set(selection.refs) >= {SEPIA, night}
        alone = session.planner.plan(
            half_measured,
            Chosen(prompt, tuple(ref for ref in selection.refs if ref != SEPIA)),
            session.embedder.embed([prompt])[0],
        )
        found = plan.coefficients()
        assert found[SEPIA] == pytest.approx(0.9)
        assert found[night] == alone.coefficients()[night] != pytest.approx(0.9)
        assert "not calibrated yet (Warm Sepia v1): strengths are the pages'" in selection.lines()

    def test_is_in_force_until_the_next_build_and_nothing_else_is_left(self, home, half_measured):
        place = family_folder(home, "emoji64")
        assert open_in_force(place).id == half_measured.id != current_id(place)
        Library(home).retire([SEPIA])
        assert register_library(home, "emoji64").id == current_id(place)
        assert not (place / "registered").exists()

    def test_is_forgotten_with_a_strength_that_its_page_takes_back(self, home, half_measured):
        library, night = Library(home), "smallhub:9002@90021"
        page = library.listing(night).model_copy(
            update={"description": "<p>Night. Best at 0.4.</p>"}
        )
        library.add_pages([(library.get(night), page)])
        graph = register_library(home, "emoji64")
        assert set(graph.manifest.uncalibrated) == {SEPIA, night}

    def test_what_could_not_be_measured_stays_out_until_it_is(self, home):
        builder = GraphBuilder(home, "emoji64")
        register(builder, builder.unregistered())
        prompts = [ReferencePrompt(id="cat", text="a cat", category="animals", seed=1)]
        config = CalibrationConfig(prompts=1)
        _, graph = write(builder, prompts, config, {SEPIA: "a score is not finite"})
        assert SEPIA not in graph.refs
        again = register_library(home, "emoji64")
        assert SEPIA not in again.refs
        (row,) = [row for row in again.nodes.to_pylist() if row["ref"] == SEPIA]
        assert row["reason"] == "could not be measured: a score is not finite"


def test_a_damaged_pointer_costs_what_came_since_the_last_build(home, half_measured, caplog):
    place = family_folder(home, "emoji64")
    (place / "registered").write_text("../../elsewhere")
    assert open_in_force(place).id == current_id(place)
    assert "the graph that was built last is used" in caplog.text
    assert register_library(home, "emoji64").id == half_measured.id


def test_a_build_that_is_stopped_leaves_whoever_is_measured_in_force(home):
    builder = GraphBuilder(home, "emoji64")
    register(builder, builder.unregistered())
    prompts = [ReferencePrompt(id="cat", text="a cat", category="animals", seed=1)]
    config = CalibrationConfig(prompts=1)
    write_interim(builder, prompts, config, {})
    assert open_in_force(family_folder(home, "emoji64")) is None  # nobody is measured
    (work,) = builder.shards(prompts, config.model_copy(update={"shard_size": 99}), False)
    for expert in work.experts[:3]:
        rows = make_scores([expert.ref], [PromptNode("cat", "", 1, np.zeros(384))])
        write_table(
            part_path(work, expert, scores_folder(home)),
            rows.filter(pc.equal(rows["expert"], expert.ref)).slice(0, 1),
        )
    write_interim(builder, prompts, config, {})
    graph = open_in_force(family_folder(home, "emoji64"))
    assert len(graph.refs) == 4
    assert graph.calibrated == tuple(sorted(expert.ref for expert in work.experts[1:3]))
    assert current_id(family_folder(home, "emoji64")) is None


def test_real_loras_are_drawn_with_before_anything_is_measured(
    tiny_sd15_folder, tmp_path, monkeypatch
):
    """SD1.5 has neither planner nor scorers yet; a page may advise a strength or not."""
    monkeypatch.setenv("DIFFGRAPH_BASES", f'{{"sd15": "{tiny_sd15_folder}"}}')
    home, family, loras = tmp_path / "home", get_family("sd15"), tmp_path / "loras"
    base = family.load("cpu").parameters()
    write_lora(base, loras / "ink_wash.safetensors", {"ss_output_name": "ink_wash"})
    write_lora(base, loras / "gold_leaf.safetensors", {"ss_output_name": "gold_leaf"})
    (loras / "gold_leaf.json").write_text('{"preferred weight": 0.65}')
    library = Library(home, bundled=())
    found = discover(FolderOfFiles(loras, family, library), library, family, parameters=base)
    assert len(found.new) == 2, found.refused
    register_library(home, "sd15")
    session = Session(home, "sd15", "cpu", overrides=QUICK)
    decision = session.decide("a fox, ink wash, gold leaf")
    names = {choice.ref: choice.name for choice in decision.selection.experts}
    strengths = {names[ref]: value for ref, value in decision.plan.coefficients().items()}
    assert strengths == {"ink_wash": family.usual_strength, "gold_leaf": 0.65}
    assert "not calibrated yet: strengths are the pages'" in decision.selection.lines()
    (drawn,) = session.draw("a fox, ink wash, gold leaf")
    (plain,) = session.draw("a fox, ink wash, gold leaf", plan=MergePlan(family="sd15"))
    assert drawn.image.tobytes() != plain.image.tobytes()


def write_lora(base, file: Path, header: dict[str, str]) -> None:
    """Write a LoRA of some of SD1.5's layers as kohya's trainer names them."""
    file.parent.mkdir(exist_ok=True)
    tensors = {}
    for name, weight in base.items():
        if name.endswith("attn1.to_q.weight") and name.startswith("unet."):
            stem = name.removesuffix(".weight").replace("unet.", "lora_unet_", 1).replace(".", "_")
            tensors[f"{stem}.lora_up.weight"] = torch.full((weight.shape[0], 1), 0.5)
            tensors[f"{stem}.lora_down.weight"] = torch.full(
                (1, weight.shape[1]), len(file.stem) / 9
            )
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file, header)
