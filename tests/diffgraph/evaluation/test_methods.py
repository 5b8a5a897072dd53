import numpy as np
import pytest
import torch

from diffgraph.baselines import BASELINES
from diffgraph.errors import InputError
from diffgraph.evaluation.gathering import comparisons, graph_view, mean_rewards, training_curves
from diffgraph.evaluation.harness import Bench, EvaluationConfig, evaluate
from diffgraph.evaluation.methods import METHODS, ORACLE, MethodPlans
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.evaluation.report import ReportData, write_report
from diffgraph.evaluation.statistics import summarise
from diffgraph.planner.planner import Planner, PlannerConfig
from diffgraph.planner.selection import Choice, Selection
from diffgraph.planner.training import StepRecord

PROMPT = EvaluationPrompt(id="p0", text="a fox, sepia, at night")


class Embedder:
    """Places texts by their length: a true one takes seconds to load."""

    def embed(self, texts):
        vectors = np.array([np.cos(np.arange(384) * len(text)) for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def plans(make_snapshot, tmp_path):
    snapshot = make_snapshot(tmp_path / "home")
    asked = []

    def select(prompt):
        asked.append(prompt)
        rows = [0, 2, 4] if "fox" in prompt else []
        experts = tuple(
            Choice(ref=snapshot.refs[row], kind=snapshot.kinds[row], name=snapshot.names[row],
                   query="sepia", similarity=0.7, reason="fits sepia")
            for row in rows
        )  # fmt: skip
        return Selection(prompt=prompt, summary="a fox", attributes=("sepia",), experts=experts)

    planner = Planner.new(PlannerConfig(family="emoji64", snapshot=snapshot.id))
    made = MethodPlans(snapshot, planner, Embedder(), select)
    made.asked = asked
    return made


def test_all_methods_but_the_base_merge_from_one_selection(plans):
    chosen = set(plans.selection(PROMPT.text).refs)
    for method in {*METHODS, *BASELINES}:
        for plan in plans(method, PROMPT):
            refs = {expert.ref for expert in plan.experts}
            assert refs <= chosen
            assert bool(refs) == (method != "base"), method
    assert plans.asked == [PROMPT.text]


def test_the_oracle_may_choose_any_one_expert_of_the_selection(plans):
    refs = [[expert.ref for expert in plan.experts] for plan in plans(ORACLE, PROMPT)]
    assert refs == [[ref] for ref in plans.selection(PROMPT.text).refs]


def test_both_normalisations_of_the_planner_share_its_coefficients(plans):
    (ours,), (paper,) = plans("diffgraph", PROMPT), plans("diffgraph_softmax", PROMPT)
    assert paper.normalisation == "softmax"
    assert ours.normalisation == "strength"
    assert ours.experts == paper.experts
    peft = [e.ref for e in paper.experts if e.kind == "peft"]
    assert sum(paper.coefficients()[ref] for ref in peft) == pytest.approx(1)


def test_without_experts_every_method_plans_the_base(plans):
    prompt = EvaluationPrompt(id="p1", text="a thing")
    (base,) = plans("base", prompt)
    assert {plan.id for method in METHODS for plan in plans(method, prompt)} == {base.id}


def test_another_planner_is_compared_by_its_id(plans):
    other = PlannerConfig(family="emoji64", snapshot="x", normalisation="softmax", seed=3)
    planners = {"abc": Planner.new(other)}
    both = MethodPlans(
        plans.snapshot, plans.planner, plans.embedder, plans.selection, planners.__getitem__
    )
    (ours,), (theirs,) = both("diffgraph", PROMPT), both("planner:abc", PROMPT)
    assert theirs.normalisation == "softmax"
    assert [e.ref for e in ours.experts] == [e.ref for e in theirs.experts]


def test_an_unknown_method_is_named(plans):
    with pytest.raises(InputError, match="magic"):
        plans("magic", PROMPT)


def test_from_a_snapshot_and_an_evaluation_to_a_report(plans, tmp_path):
    prompts = [
        PROMPT,
        EvaluationPrompt(id="p1", text="a big fox"),
        EvaluationPrompt(id="p2", text="x"),
    ]
    bench = Bench(
        plans,
        lambda plan, texts, seeds: torch.full(
            (len(texts), 3, 8, 8), min(1.0, sum(plan.coefficients().values()) / 4)
        ),
        lambda images, texts: images.mean(dim=(1, 2, 3)).unsqueeze(1).repeat(1, 5),
        plans.snapshot.reward.of,
        "test",
    )
    result = evaluate(prompts, bench, tmp_path / "eval", EvaluationConfig(seeds=(0, 1)))
    names = dict(zip(plans.snapshot.refs, plans.snapshot.names, strict=True))
    selections = {prompt.text: plans.selection(prompt.text) for prompt in prompts}
    rows = comparisons(result, names, selections)
    assert [row.prompt for row in rows] == [prompt.text for prompt in prompts]
    assert [picture.method for picture in rows[0].pictures] == list(METHODS)
    part = rows[0].pictures[-1].parts[0]
    assert part.name == names[part.ref]
    assert part.reason == "fits sepia"
    assert part.coefficient == result.plans["diffgraph", "p0"].coefficients()[part.ref]
    rewards = mean_rewards(result)
    table = result.table.to_pylist()
    two = [r["reward"] for r in table if (r["method"], r["prompt_id"]) == ("uniform", "p0")]
    assert rewards["uniform", "p0"] == pytest.approx(np.mean(two))
    view = graph_view(plans.snapshot)
    assert view.gains.shape == (len(view.refs), len(view.prompts), 5)
    data = ReportData("x", "emoji64", graph=view, summary=summarise(result.table), comparisons=rows)
    assert "fits sepia" in write_report(tmp_path / "r.html", data).read_text(encoding="utf-8")


def test_a_training_becomes_curves():
    records = [
        StepRecord(step=n, steps=9, reward=n / 9, spread=0, entropy=1, divergence=0.5,
                   gradient_norm=1, learning_rate=1e-2, validation=0.5 if n % 4 == 0 else None)
        for n in range(9)
    ]  # fmt: skip
    curves = {curve.name: curve for curve in training_curves(records)}
    assert list(curves["Reward of the plans tried"].values) == [n / 9 for n in range(9)]
    assert list(curves["Reward on validation prompts"].steps) == [0, 4, 8]
    assert training_curves(records[:1]) == []
