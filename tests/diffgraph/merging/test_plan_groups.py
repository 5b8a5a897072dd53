from typing import Any

import pytest
import torch

from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import CheckpointUpdate, LowRankUpdate
from diffgraph.merging import plan_groups
from diffgraph.merging.apply import Merger
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.plan_groups import PlanGroups

LINEAR = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


def plan_of(rule: str = "linear", **coefficients: float) -> MergePlan:
    experts = tuple(
        PlannedExpert(
            ref=f"hub:{name[1:]}@1",
            kind="checkpoint" if name[0] == "c" else "peft",
            coefficient=value,
        )
        for name, value in coefficients.items()
    )
    return MergePlan.model_validate({"family": "emoji64", "experts": experts, "rule": rule})


@pytest.fixture
def merger(tiny_model: Any) -> Merger:
    return Merger(tiny_model)


def deltas_of(merger: Merger) -> dict[str, Delta]:
    base = merger.base[LINEAR]
    low = LowRankUpdate(torch.ones(base.shape[0], 1), torch.ones(1, base.shape[1]), 0.1, base.shape)
    return {
        "hub:1@1": Delta({LINEAR: CheckpointUpdate(base + 0.1, base)}, "checkpoint", Coverage()),
        "hub:2@1": Delta({LINEAR: low}, "lora", Coverage()),
    }


def test_plans_of_any_experts_share_a_pass(merger: Merger) -> None:
    plans = [plan_of(c1=0.5), plan_of(p2=1.0), plan_of(c1=0.1, p2=0.2), plan_of()]
    assert list(PlanGroups(merger).groups(plans, deltas_of(merger))) == [[0, 1, 2, 3]]


def test_other_rules_are_drawn_alone_but_each_only_once(merger: Merger) -> None:
    ties = plan_of("ties", p2=0.5)
    plans = [ties, plan_of(p2=1.0), ties, plan_of("dare", p2=0.5)]
    groups = list(PlanGroups(merger).groups(plans, deltas_of(merger)))
    assert groups == [[0, 2], [3], [1]]


def test_whole_models_that_do_not_fit_are_grouped_by_their_coefficients(
    merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [plan_of(c1=value, p2=0.1 * place) for place, value in enumerate((0.5, 0.2, 0.5, 0.2))]
    deltas = deltas_of(merger)
    monkeypatch.setattr(plan_groups, "OWN_BYTES", {"cpu": merger.base[LINEAR].nbytes})
    groups = list(PlanGroups(merger).groups(plans, deltas))
    assert groups == [[0, 2], [1, 3]]
    for group in groups:
        with PlanGroups(merger).rollouts([plans[place] for place in group], deltas) as model:
            expected = merger.base[LINEAR] + 0.1 * plans[group[0]].coefficients()["hub:1@1"]
            torch.testing.assert_close(model.parameters()[LINEAR], expected)


def test_a_pass_is_no_larger_than_the_device_takes(merger: Merger) -> None:
    plans = [plan_of(p2=0.01 * place) for place in range(1, 21)]
    groups = list(PlanGroups(merger).groups(plans, deltas_of(merger)))
    assert [len(group) for group in groups] == [16, 4]
    merger.model.images_at_once = 3  # type: ignore[attr-defined]
    groups = list(PlanGroups(merger).groups(plans[:7], deltas_of(merger)))
    merger.model.images_at_once = 64  # type: ignore[attr-defined]
    assert [len(group) for group in groups] == [3, 3, 1]
