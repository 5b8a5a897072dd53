import json

import pytest
import torch

from diffgraph.recipe.community import COMMUNITY
from diffgraph.recipe.measures import bootstrap_interval, rank_correlation
from diffgraph.recipe.proof_headroom import (
    HeadroomConfig,
    equal_shares,
    prove_headroom,
    random_plan,
    recommended,
)
from diffgraph.recipe.proof_scorers import prove_scorers
from diffgraph.recipe.proof_sheets import prove_sheets
from diffgraph.recipe.proof_skills import SkillsConfig, prove_skills
from diffgraph.recipe.scorer_data import DataConfig
from diffgraph.recipe.studio import BenchPrompt, Studio
from diffgraph.recipe.truth import Composition
from diffgraph.scoring import SCORERS

KEPT = ("critter_cabin", "puffy_3d", "night", "red_frame", "snow", "pixel_art", "sepia")


@pytest.fixture(scope="module")
def studio(tiny_model_parts, few_pictures):
    model, _ = tiny_model_parts
    name = next(name for name in model.parameters() if name.endswith("to_q.weight"))
    generator = torch.Generator().manual_seed(1)
    shape = model.parameters()[name].shape
    updates = {
        recipe.slug: {name: 0.1 * torch.randn(shape, generator=generator)}
        for recipe in COMMUNITY
        if recipe.slug in KEPT
    }
    scorers = {name: kind.untrained(model.tokenizer) for name, kind in SCORERS.items()}
    return Studio(few_pictures, model, updates, scorers)


@pytest.fixture
def prompt():
    experts = ("critter_cabin", "puffy_3d", "night", "red_frame")
    return BenchPrompt("bench-1", "a dog at night", Composition(0, None, ("night",)), experts)


class TestMeasures:
    def test_rank_correlation_is_spearmans(self):
        from scipy.stats import spearmanr

        generator = torch.Generator().manual_seed(0)
        left = torch.randint(0, 5, (40,), generator=generator)
        right = left + torch.randint(0, 5, (40,), generator=generator)
        expected = spearmanr(left.numpy(), right.numpy()).statistic
        assert float(rank_correlation(left, right)) == pytest.approx(expected)

    def test_what_never_varies_correlates_with_nothing(self):
        assert float(rank_correlation(torch.ones(5), torch.arange(5))) == 0

    def test_the_interval_holds_the_mean_and_shrinks(self):
        generator = torch.Generator().manual_seed(0)
        few, many = (
            torch.randn(30, generator=generator) + 1,
            torch.randn(3000, generator=generator) + 1,
        )
        low, high = bootstrap_interval(few, generator)
        lower, higher = bootstrap_interval(many, generator)
        assert low < float(few.mean()) < high
        assert higher - lower < high - low
        assert lower < 1 < higher


class TestPlans:
    def test_equal_shares_sum_to_one_within_a_kind(self, prompt):
        assert equal_shares(prompt) == dict.fromkeys(prompt.experts, 0.5)

    def test_recommended_is_what_the_pages_say(self, prompt):
        plan = recommended(prompt)
        assert plan["critter_cabin"] == plan["puffy_3d"] == 0.5
        assert plan["night"] == next(own.strength for own in COMMUNITY if own.slug == "night")

    def test_checkpoints_of_a_random_plan_are_parts_of_one_model(self, prompt):
        import numpy as np

        rng = np.random.default_rng(0)
        for _ in range(20):
            plan = random_plan(prompt, rng)
            assert set(plan) == set(prompt.experts)
            assert plan["critter_cabin"] + plan["puffy_3d"] <= 1
            assert all(value >= 0 for value in plan.values())


class TestProofs:
    def test_sheets(self, studio, tmp_path):
        found = prove_sheets(studio, tmp_path)
        assert set(found["experts"]) == set(KEPT)
        for image in found["images"]:
            assert (tmp_path / image).read_bytes().startswith(b"\x89PNG")

    def test_specialisation(self, studio, tmp_path):
        found = prove_skills(studio, tmp_path, SkillsConfig(prompts=1, batch=4))
        assert len(found["gains"]) == len(KEPT)
        assert {len(row) for row in found["gains"]} == {len(found["skills"])}
        assert set(found["own_gain_of_expert"]) <= set(KEPT)
        assert 0 <= found["experts_best_at_their_own"] <= 1
        json.dumps(found, allow_nan=False)

    def test_scorers(self, studio, tmp_path):
        found = prove_scorers(studio, tmp_path, DataConfig(test_sets=1, prompts=3, seed=3))
        for own in found["scorers"].values():
            assert -1 <= own["within_prompt"] <= 1
            assert 0 <= own["preferences"]["degraded"]["all"] <= 1
        json.dumps(found, allow_nan=False)

    def test_headroom(self, studio, prompt, tmp_path, monkeypatch):
        from diffgraph.recipe import proof_headroom

        monkeypatch.setattr(proof_headroom, "bench_prompts", lambda studio, count: [prompt])
        found = prove_headroom(studio, tmp_path, HeadroomConfig(plans=2, seeds=2))
        assert found["prompts"] == 1
        assert set(found["steps"]) == {
            "base -> best single", "best single -> uniform", "uniform -> oracle",
        }  # fmt: skip
        json.dumps(found, allow_nan=False)
