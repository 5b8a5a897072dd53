"""docs/adding-a-baseline.md, word by word."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from diffgraph.baselines import BASELINES, OURS
from diffgraph.errors import PlanError
from diffgraph.evaluation.methods import METHODS, MethodPlans
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import DenseUpdate
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.merging.apply import Merger
from diffgraph.merging.rules import merged_parameter
from diffgraph.planner.planner import Planner, PlannerConfig
from diffgraph.planner.selection import Choice, Selection
from diffgraph.session import check_method
from tests.diffgraph.baselines import test_every_baseline as contract
from tests.diffgraph.extending.packages import Install, files_of, registered

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
PROMPT = EvaluationPrompt(id="p", text="a fox, sepia")


@dataclass(frozen=True)
class Chosen:
    prompt: str
    refs: tuple[str, ...]


class Embedder:
    def embed(self, texts: Any) -> np.ndarray:
        return np.eye(384, dtype=np.float32)[: len(texts)]


def plans_of(snapshot: GraphSnapshot) -> MethodPlans:
    """Return what makes plans, of the first three PEFT experts."""
    chosen = [
        Choice(ref=snapshot.refs[row], kind="peft", name="", query="", similarity=1.0, reason="")
        for row in (2, 3, 4)
    ]
    selection = Selection(prompt=PROMPT.text, summary="", attributes=(), experts=tuple(chosen))
    planner = Planner.new(PlannerConfig(family="emoji64", snapshot=snapshot.id))
    return MethodPlans(snapshot, planner, Embedder(), lambda prompt: selection)


def test_the_contract_of_all_baselines(install: Install, small_snapshot: GraphSnapshot) -> None:
    install(files_of("adding-a-baseline.md"))
    method = BASELINES["trimmed"]
    every = contract.TestEveryBaseline()
    every.test_is_listed_under_its_own_name(method)
    for count in (0, 1, 3, 6):
        every.test_plans_chosen_experts_only(method, small_snapshot, count)
    every.test_plans_the_same_again(method, small_snapshot)
    contract.test_names_an_expert_the_graph_lacks("trimmed", small_snapshot)


def test_it_is_a_method_and_its_plan_is_merged_by_its_rule(
    install: Install, small_snapshot: GraphSnapshot, tiny_model: Any
) -> None:
    install(files_of("adding-a-baseline.md"))
    check_method("trimmed")
    (plan,) = plans_of(small_snapshot)("trimmed", PROMPT)
    assert (plan.rule, plan.parameters["density"]) == ("ties", 0.1)
    assert [expert.coefficient for expert in plan.experts] == pytest.approx([0.6, 0.9, 1.2])
    base = tiny_model.parameters()[LAYER].clone()
    generator = torch.Generator().manual_seed(0)
    updates = {
        expert.ref: DenseUpdate(torch.randn(base.shape, generator=generator))
        for expert in plan.experts
    }
    deltas = {ref: Delta({LAYER: update}, "t", Coverage()) for ref, update in updates.items()}
    Merger(tiny_model).apply(plan, deltas)
    changed = tiny_model.parameters()[LAYER] - base
    torch.testing.assert_close(base + changed, merged_parameter(LAYER, base, updates, plan))
    assert 0.1 <= (changed != 0).float().mean() <= 0.3  # a tenth of each of three


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            'planned(selection, snapshot, lambda *a: 1.0, "none", rule="slerp")',
            "slerp takes two checkpoints, not 0",
        ),
        ('planned(selection, snapshot, lambda *a: float("nan"), "none")', "finite number"),
        (
            "planned(selection, snapshot, lambda *a: 1.0, 'none').model_copy(update={'rule': 'x'})",
            "rule: ",
        ),
        (
            "MergePlan(family='emoji64', experts=[PlannedExpert(ref='a:b@1', kind='peft', "
            "coefficient=1)])",
            "no mergeable expert a:b@1",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_the_plan_s_fault_and_no_crash(
    install: Install, small_snapshot: GraphSnapshot, body: str, why: str
) -> None:
    text = f"""
from diffgraph.baselines.baseline import planned
from diffgraph.merging.plan import MergePlan, PlannedExpert
class Own:
    name = "own"
    def plan(self, selection, snapshot):
        return {body}
OWN = Own()
"""
    project = registered("own", "diffgraph.baselines", own="own_method:OWN")
    install({"pyproject.toml": project, "own_method.py": text})
    with pytest.raises(PlanError, match="own has no plan for these experts") as told:
        plans_of(small_snapshot)("own", PROMPT)
    assert why in str(told.value)


def test_no_package_can_take_the_name_of_a_method() -> None:
    assert set(METHODS) <= {*BASELINES.built_in, *OURS}
    assert not set(OURS) & {*BASELINES.built_in}
