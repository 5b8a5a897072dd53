import json
import re
from dataclasses import replace

import pytest
import torch

from diffgraph.families.emoji64.scorers import SCORERS
from recipes.emoji64 import proof_headroom
from recipes.emoji64.community import COMMUNITY
from recipes.emoji64.document import write_document
from recipes.emoji64.measures import bootstrap_interval, rank_correlation
from recipes.emoji64.proof_headroom import (
    HeadroomConfig,
    equal_shares,
    random_plan,
    recommended,
)
from recipes.emoji64.proof_inputs import BenchPrompt, ProofInputs
from recipes.emoji64.proof_scorers import rises_and_falls
from recipes.emoji64.proof_skills import SkillsConfig
from recipes.emoji64.proofs import ProofConfig, prove
from recipes.emoji64.scorer_data import DataConfig
from recipes.emoji64.scorer_files import untrained
from recipes.emoji64.truth import Composition
from recipes.emoji64.verdict import verdicts

KEPT = ("critter_cabin", "puffy_3d", "night", "red_frame", "snow", "pixel_art", "sepia")


@pytest.fixture(scope="module")
def inputs(tiny_model_parts, few_pictures):
    model, _ = tiny_model_parts
    name = next(name for name in model.parameters() if name.endswith("to_q.weight"))
    generator = torch.Generator().manual_seed(1)
    shape = model.parameters()[name].shape
    updates = {
        recipe.slug: {name: 0.1 * torch.randn(shape, generator=generator)}
        for recipe in COMMUNITY
        if recipe.slug in KEPT
    }
    scorers = {name: untrained(kind, model.tokenizer) for name, kind in SCORERS.items()}
    return ProofInputs(few_pictures, model, updates, scorers)


@pytest.fixture(scope="module")
def prompt():
    experts = ("critter_cabin", "puffy_3d", "night", "red_frame")
    return BenchPrompt("bench-1", "a dog at night", Composition(0, None, ("night",)), experts)


def test_a_subject_without_a_picture_is_not_asked_for(inputs):
    nobody = replace(inputs.art.subjects[0], name="vuvuzela")
    art = replace(inputs.art, subjects=(*inputs.art.subjects, nobody))
    assert replace(inputs, art=art).numbers == inputs.numbers


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


SMALL = ProofConfig(
    SkillsConfig(prompts=1, batch=4),
    DataConfig(test_sets=1, prompts=3, seed=3),
    HeadroomConfig(plans=2, seeds=2, judged=3),
)


@pytest.fixture(scope="module")
def proved(inputs, prompt, tmp_path_factory):
    """All four proofs of an untrained family, as small as they get."""
    out = tmp_path_factory.mktemp("emoji64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProofInputs, "open", lambda *_: inputs)
        patch.setattr(proof_headroom, "bench_prompts", lambda *_: [prompt])
        found = prove(out, "cpu", SMALL)
    return out / "proofs", found


class TestProofs:
    def test_every_picture_is_there(self, proved):
        folder, found = proved
        assert set(found) == {"sheets", "specialisation", "scorers", "headroom"}
        for proof in found.values():
            for image in proof["images"]:
                assert (folder / image).read_bytes().startswith(b"\x89PNG")
            json.dumps(proof, allow_nan=False)

    def test_sheets_show_every_expert(self, proved):
        assert set(proved[1]["sheets"]["experts"]) == set(KEPT)

    def test_specialisation_holds_every_expert_and_skill(self, proved):
        found = proved[1]["specialisation"]
        assert len(found["gains"]) == len(found["experts"]) == len(KEPT)
        assert {len(row) for row in found["gains"]} == {len(found["skills"])}
        assert 0 <= found["experts_best_at_their_own"] <= 1

    def test_scorers_are_compared_with_the_truth(self, proved):
        found = proved[1]["scorers"]
        for own in found["scorers"].values():
            assert -1 <= own["within_prompt"] <= 1
            assert 0 <= own["preferences"]["degraded"]["all"] <= 1
        assert set(found["curves"]) == {*SCORERS, "closeness"}

    def test_headroom_climbs_in_three_steps(self, proved):
        found = proved[1]["headroom"]
        assert found["prompts"] == 1
        assert list(found["steps"]) == [
            "base -> best single",
            "best single -> uniform",
            "uniform -> oracle",
        ]

    def test_what_is_proved_is_not_proved_again(self, proved):
        assert prove(proved[0].parent, "cpu", SMALL) == proved[1]  # without opening any inputs

    def test_the_document_tells_the_figures(self, proved, tmp_path):
        folder, found = proved
        document = write_document(folder, tmp_path)
        text = document.read_text()
        assert f"{found['scorers']['scorers']['hps']['within_prompt']:.2f}" in text
        assert f"{found['headroom']['reward']['oracle']:+.3f}" in text
        links = re.findall(r"\]\(([^)]+\.webp)\)", text)
        assert len(links) == sum(len(proof["images"]) for proof in found.values())
        for link in links:
            assert (tmp_path / link).read_bytes()[8:12] == b"WEBP"

    def test_the_document_says_what_is_not_reached(self, proved, tmp_path):
        folder, found = proved
        judged = list(verdicts(found))
        assert not all(verdict.reached for verdict in judged)  # nothing here is trained
        text = write_document(folder, tmp_path).read_text()
        missed = sum(not verdict.reached for verdict in judged)
        assert text.count("| **no** |") == missed
        assert f"{missed} aims of {len(judged)} not reached" in text

    def test_the_document_says_who_learnt_together(self, proved, tmp_path):
        folder, _ = proved
        rounds = [{"steps": 12, "train_seconds": 3.4}, {"steps": 15, "train_seconds": 5.6}]
        alone, joint = {"seed": 1}, {"together": {"rounds": rounds}}
        record = {"base": {"pictures": 9}, "experts": {"a": alone, "b": joint, "c": joint}}
        (tmp_path / "training.json").write_text(json.dumps(record))
        text = write_document(folder, tmp_path / "docs", tmp_path).read_text()
        assert "2 good adapters learnt alone, then together: 12 steps in 3 s, then 15" in text


class TestCurves:
    def test_one_summitrises_and_falls(self):
        assert rises_and_falls([0, 1, 3, 5, 4, 2, 1])
        assert not rises_and_falls([0, 1, 3, 2, 4, 2, 1])
