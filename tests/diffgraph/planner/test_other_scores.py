"""Widths follow the scores that a graph holds, and a planner reads those that it learnt from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from diffgraph.errors import DamagedSnapshot, MissingInput
from diffgraph.graph.contents import MANIFEST, SEAL
from diffgraph.graph.schema import OTHER_SCORES, SCHEMA_VERSION
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot
from diffgraph.planner.planner import CONFIG, Planner, PlannerConfig
from diffgraph.planner.subgraph import activate, edge_width
from diffgraph.planner.training import TrainingConfig, TrainingPrompt, train
from diffgraph.planner.vgae import VGAEConfig
from diffgraph.scoring.reward import SCORE_NAMES

SIX = ("hps", "colours", "clip_score", "image_reward", "aesthetic_score", "pick_score")
Make = Callable[..., GraphSnapshot]


@dataclass(frozen=True)
class Chosen:
    prompt: str
    refs: tuple[str, ...]


@pytest.fixture
def six(make_snapshot: Make, tmp_path: Path) -> GraphSnapshot:
    return make_snapshot(tmp_path / "six", names=SIX)


def opinionated(scores: tuple[str, ...], family: str = "emoji64") -> Planner:
    """Return a planner whose last layer is not at its first zero: what it reads counts."""
    planner = Planner.new(
        PlannerConfig(family=family, snapshot="x", scores=scores, vgae=VGAEConfig(hidden=8))
    )
    generator = torch.Generator().manual_seed(3)
    for weight in planner.vgae.parameters():
        weight.data.normal_(0.0, 0.3, generator=generator)
    return planner


def test_a_graph_says_which_scores_it_holds(six: GraphSnapshot) -> None:
    again = open_snapshot(six.folder)
    assert again.score_names == again.reward.names == SIX
    assert again.manifest.schema_version == OTHER_SCORES
    assert again.edge_features(again.refs).shape == (6, 5, 6)
    assert again.edge_gains(()).shape == (0, 5, 6)
    (again.folder / SEAL).unlink()  # the id is computed again from the content
    assert open_snapshot(six.folder).id == six.id
    assert six.sql("SELECT max(colours) AS most FROM scores")["most"][0] > 0


def test_a_graph_of_the_papers_scores_is_what_it_was(make_snapshot: Make, tmp_path: Path) -> None:
    five = make_snapshot(tmp_path)
    facts = json.loads((five.folder / MANIFEST).read_text())
    assert facts["schema_version"] == SCHEMA_VERSION == 2
    assert "scores" not in facts
    assert five.score_names == SCORE_NAMES


@pytest.mark.parametrize("names", [["hps"], ["a b"], ["clip_score"] * 6, []])
def test_a_manifest_that_names_other_scores_than_its_reward_is_damaged(
    six: GraphSnapshot, names: list[str]
) -> None:
    file = six.folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scores": names}))
    (six.folder / SEAL).unlink()
    with pytest.raises(DamagedSnapshot, match="not a manifest"):
        open_snapshot(six.folder)


def test_a_planner_learns_from_six_scores(six: GraphSnapshot, tmp_path: Path) -> None:
    prompts = [TrainingPrompt("a cat", six.refs[:3], six.prompt_embeddings[0])]
    config = TrainingConfig(steps=1, prompts=1, checkpoint_every=1)
    trained = train(
        six,
        prompts,
        lambda plans, *_: torch.rand(len(plans)),
        config,
        tmp_path / "p",
        None,
        prompts,
    )
    read = Planner.load(tmp_path / "p")
    assert read.config.scores == SIX
    assert read.vgae.mean.first.edge_in.in_features == edge_width(6)
    chosen = Chosen("a cat", six.refs)
    plans = [one.plan(six, chosen, six.prompt_embeddings[1]) for one in (trained, read)]
    assert plans[0] == plans[1]


def test_a_planner_of_five_reads_its_own_five_of_a_graph_of_six(
    six: GraphSnapshot, make_snapshot: Make, tmp_path: Path
) -> None:
    five = make_snapshot(tmp_path / "five", names=tuple(n for n in SIX if n != "colours"))
    planner = opinionated(SCORE_NAMES)
    chosen = Chosen("a cat", five.refs)
    embedding = five.prompt_embeddings[1]
    assert planner.plan(six, chosen, embedding) == planner.plan(five, chosen, embedding)
    other = opinionated(("colours", *SCORE_NAMES[1:]))
    assert other.plan(six, chosen, embedding) != planner.plan(six, chosen, embedding)


def test_a_planner_of_six_says_what_a_graph_of_five_lacks(
    small_snapshot: GraphSnapshot, six: GraphSnapshot
) -> None:
    planner = opinionated(SIX)
    with pytest.raises(MissingInput, match="reads the scores colours, which snapshot"):
        planner.plan(small_snapshot, Chosen("", six.refs), six.prompt_embeddings[0])


def test_a_planner_from_before_is_of_the_papers_scores(tmp_path: Path) -> None:
    planner = opinionated(SCORE_NAMES)
    planner.save(tmp_path)
    facts = json.loads((tmp_path / CONFIG).read_text())
    facts.pop("scores")
    (tmp_path / CONFIG).write_text(json.dumps(facts))
    assert Planner.load(tmp_path).config.scores == SCORE_NAMES


def test_edges_hold_the_scores_that_are_asked_for(six: GraphSnapshot) -> None:
    whole = activate(six, six.refs[:2], six.prompt_embeddings[0]).edges
    part = activate(six, six.refs[:2], six.prompt_embeddings[0], scores=("colours",)).edges
    assert part.shape[1] == edge_width(1) == 7
    assert torch.equal(part[:, :2], whole[:, [1, 7]])
    assert torch.equal(part[:, 2:], whole[:, 12:])
