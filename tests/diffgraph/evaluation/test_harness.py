import json

import pyarrow.parquet as pq
import pytest
import torch

from diffgraph.errors import DamagedFile, InputError, UnknownWords
from diffgraph.evaluation.harness import Bench, EvaluationConfig, evaluate, evenly
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.merging.plan import MergePlan, PlannedExpert

PROMPTS = [EvaluationPrompt(id=f"p{n}", text=f"subject {n}, sepia") for n in range(5)]


def plan(coefficient=None, ref="hub:a@1"):
    if coefficient is None:
        return MergePlan(family="emoji64")
    expert = PlannedExpert(ref=ref, kind="peft", coefficient=coefficient)
    return MergePlan(family="emoji64", experts=(expert,))


class Studio:
    """Draws an image whose brightness is the plan's coefficient, and remembers what was asked."""

    def __init__(self, plans, bad=()):
        self.plans, self.bad = plans, bad
        self.drawn = []

    def make_plans(self, method, prompt):
        made = self.plans[method]
        return made(prompt) if callable(made) else made

    def render(self, plan, prompts, seeds):
        if plan.id in self.bad:
            raise DamagedFile("hub:a@1 holds NaN")
        self.drawn.extend((plan.id, *pair) for pair in zip(prompts, seeds, strict=True))
        light = sum(plan.coefficients().values())
        values = torch.tensor([light + 0.01 * seed for seed in seeds])
        return values.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clamp(0, 1)

    def score(self, images, prompts):
        return images.mean(dim=(1, 2, 3)).unsqueeze(1) * torch.arange(1.0, 6.0)

    def bench(self, identity="test"):
        return Bench(self.make_plans, self.render, self.score, lambda s: s.mean(1), identity)


def studio(**more):
    return Studio(
        {"base": [plan()], "uniform": [plan(0.2)], "diffgraph": [plan(0.5)], **more},
    )


CONFIG = EvaluationConfig(methods=("base", "uniform", "diffgraph"), seeds=(3, 4), keep_images=2)


def test_every_method_is_drawn_for_every_prompt_and_seed(tmp_path):
    result = evaluate(PROMPTS, studio().bench(), tmp_path, CONFIG)
    rows = result.table.to_pylist()
    keys = {(row["method"], row["prompt_id"], row["seed"]) for row in rows}
    assert len(rows) == len(keys) == 3 * 5 * 2
    row = next(row for row in rows if row["method"] == "diffgraph" and row["seed"] == 4)
    assert row["plan_id"] == plan(0.5).id
    assert row["clip_score"] == pytest.approx(0.54)
    assert row["hps"] == pytest.approx(5 * 0.54)
    assert row["reward"] == pytest.approx(3 * 0.54)
    assert pq.read_table(tmp_path / "results.parquet").equals(result.table)


def test_methods_that_plan_alike_share_their_pictures(tmp_path):
    place = studio(single=[plan(0.5)])
    config = CONFIG.model_copy(update={"methods": ("diffgraph", "single")})
    result = evaluate(PROMPTS, place.bench(), tmp_path, config)
    assert len(place.drawn) == len(set(place.drawn)) == 5 * 2
    assert result.table.num_rows == 2 * 5 * 2


def test_an_oracle_takes_the_candidate_that_earns_most_on_the_prompt(tmp_path):
    weak, strong = plan(0.3, "hub:weak@1"), plan(0.9, "hub:strong@1")
    place = studio(single=lambda prompt: [weak] if prompt.id == "p0" else [weak, strong])
    config = CONFIG.model_copy(update={"methods": ("base", "single")})
    result = evaluate(PROMPTS, place.bench(), tmp_path, config)
    assert result.plans["single", "p0"] == weak
    assert result.plans["single", "p1"] == strong
    rows = [row for row in result.table.to_pylist() if row["method"] == "single"]
    assert len(rows) == 5 * 2


def test_an_oracle_is_chosen_on_other_seeds_than_it_is_judged_on(tmp_path):
    lucky, steady = plan(0.3, "hub:lucky@1"), plan(0.5, "hub:steady@1")
    place = studio(single=[lucky, steady])
    calm = place.render

    def luck(plan, prompts, seeds):
        bonus = torch.tensor([0.6 if plan == lucky and seed == 3 else 0.0 for seed in seeds])
        return (calm(plan, prompts, seeds) + bonus.view(-1, 1, 1, 1)).clamp(0, 1)

    place.render = luck
    config = CONFIG.model_copy(update={"methods": ("base", "single")})
    result = evaluate(PROMPTS[:1], place.bench(), tmp_path, config)
    rows = {row["seed"]: row for row in result.table.to_pylist() if row["method"] == "single"}
    assert rows[3]["plan_id"] == steady.id  # seed 4 knows nothing of the luck of seed 3
    assert rows[4]["plan_id"] == lucky.id
    assert result.plans["single", "p0"] == steady
    assert result.images["single", "p0"].is_file()


def test_a_second_run_draws_nothing_and_says_the_same(tmp_path):
    first = evaluate(PROMPTS, studio().bench(), tmp_path, CONFIG)
    again = studio()
    second = evaluate(PROMPTS, again.bench(), tmp_path, CONFIG)
    assert first.drawn == 30
    assert second.drawn == 0
    assert again.drawn == []
    assert second.table.equals(first.table)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    place = studio()
    calm = place.render

    def killed(plan, prompts, seeds):
        if len(place.drawn) >= 20:
            raise KeyboardInterrupt
        return calm(plan, prompts, seeds)

    place.render = killed
    with pytest.raises(KeyboardInterrupt):
        evaluate(PROMPTS, place.bench(), tmp_path, CONFIG)
    again = studio()
    result = evaluate(PROMPTS, again.bench(), tmp_path, CONFIG)
    assert len(again.drawn) == 10
    whole = evaluate(PROMPTS, studio().bench(), tmp_path / "whole", CONFIG)
    assert result.table.equals(whole.table)


def test_other_scorers_or_samplers_see_none_of_the_finished_work(tmp_path):
    evaluate(PROMPTS, studio().bench("12 steps"), tmp_path, CONFIG)
    again = studio()
    evaluate(PROMPTS, again.bench("50 steps"), tmp_path, CONFIG)
    assert len(again.drawn) == 30


def test_a_damaged_part_is_drawn_again(tmp_path):
    evaluate(PROMPTS, studio().bench(), tmp_path, CONFIG)
    (part,) = tmp_path.glob("parts/*/*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    again = studio()
    assert evaluate(PROMPTS, again.bench(), tmp_path, CONFIG).drawn == 30


def test_pictures_are_kept_for_prompts_spread_over_the_set(tmp_path):
    result = evaluate(PROMPTS, studio().bench(), tmp_path, CONFIG)
    assert [prompt.id for prompt in result.shown] == ["p0", "p2"]
    assert set(result.images) == {
        (method, prompt) for method in CONFIG.methods for prompt in ("p0", "p2")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in result.images.values())
    more = CONFIG.model_copy(update={"keep_images": 3})
    assert evaluate(PROMPTS, studio().bench(), tmp_path, more).drawn > 0
    assert [p.id for p in evenly(PROMPTS, 99)] == ["p0", "p1", "p2", "p3", "p4"]


def test_a_bad_expert_costs_one_method_its_prompts_and_never_the_run(tmp_path):
    bad = plan(0.7, "hub:bad@1")
    place = studio(diffgraph=lambda prompt: [bad] if prompt.id == "p1" else [plan(0.5)])
    place.bad = (bad.id,)
    result = evaluate(PROMPTS, place.bench(), tmp_path, CONFIG)
    assert list(result.left_out) == ["p1"]
    assert "hub:a@1 holds NaN" in result.left_out["p1"]
    assert {row["prompt_id"] for row in result.table.to_pylist()} == {"p0", "p2", "p3", "p4"}
    told = json.loads((tmp_path / "plans.json").read_text())
    assert told["left_out"] == result.left_out
    assert len(told["plans"]) == 3 * 4


def test_a_prompt_that_cannot_be_planned_is_left_out_for_all(tmp_path):
    def refuse(prompt):
        if prompt.id == "p4":
            raise UnknownWords("zyzzyva")
        return [plan(0.5)]

    result = evaluate(PROMPTS, studio(diffgraph=refuse).bench(), tmp_path, CONFIG)
    assert result.left_out == {"p4": "zyzzyva"}
    with pytest.raises(InputError, match="no prompt could be evaluated; p4: zyzzyva"):
        evaluate(PROMPTS[4:], studio(diffgraph=refuse).bench(), tmp_path, CONFIG)


def test_progress_counts_pictures_and_what_was_finished(tmp_path):
    seen = []
    evaluate(PROMPTS[:2], studio().bench(), tmp_path, CONFIG)
    evaluate(PROMPTS, studio().bench(), tmp_path, CONFIG, lambda *done: seen.append(done))
    assert seen[0][1] == seen[-1][0] == seen[-1][1] == 30
    assert seen[0][0] > 0
