"""K-LoRA's choices against the paper's loop, layer by layer and step by step."""

import pytest
import torch

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import DenseUpdate, LowRankUpdate
from diffgraph.merging.k_lora import schedule
from diffgraph.merging.plan import MergePlan, PlannedExpert

LAYERS = [
    f"unet.{block}.attentions.0.transformer_blocks.0.attn1.{kind}.weight"
    for block in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    for kind in ("to_k", "to_out.0", "to_q", "to_v")
]
TEXT = "text_encoder.encoder.layers.0.mlp.fc1.weight"
ALONE = "unet.conv_in.weight"
STEPS = 12


def lora(seed: int, rank: int, names: list[str], size: float = 1.0) -> Delta:
    generator = torch.Generator().manual_seed(seed)

    def update() -> LowRankUpdate:
        # heavy tails: layers differ in how much their largest entries say
        up = torch.randn(6, rank, generator=generator) ** 3
        down = torch.randn(rank, 8, generator=generator)
        return LowRankUpdate(up, down, size, torch.Size((6, 8)))

    return Delta({name: update() for name in names}, "lora", Coverage())


@pytest.fixture
def deltas() -> dict[str, Delta]:
    return {
        "hub:content@1": lora(0, 2, [*reversed(LAYERS), TEXT]),
        "hub:style@1": lora(1, 3, [TEXT, *LAYERS, ALONE], 0.2),
        "hub:model@1": Delta({ALONE: DenseUpdate(torch.ones(6, 8))}, "checkpoint", Coverage()),
    }


def plan_of(**parameters: float) -> MergePlan:
    kinds = {"hub:content@1": "peft", "hub:model@1": "checkpoint", "hub:style@1": "peft"}
    return MergePlan(
        family="emoji64",
        experts=tuple(
            PlannedExpert(ref=ref, kind=kind, coefficient=1) for ref, kind in kinds.items()
        ),
        rule="k_lora",
        parameters={"content": "hub:content@1", **parameters},
    )


def papers_choices(deltas: dict[str, Delta], alpha: float, beta: float, wraps: bool) -> list[set]:
    """Return for each step the layers that are the content's, as the paper's loop has it."""
    dense = {
        who: {name: deltas[f"hub:{who}@1"].updates[name].dense().abs().double() for name in LAYERS}
        for who in ("content", "style")
    }
    ratios = [float(dense["content"][name].sum() / dense["style"][name].sum()) for name in LAYERS]
    mean = sum(ratios) / len(ratios)
    kept = [ratio for ratio in ratios if ratio < 3 * mean]
    gamma = sum(kept) / len(kept)
    total, done, choices = len(LAYERS) * STEPS, 0, []
    for _ in range(STEPS):
        chosen = set()
        for name in LAYERS:
            tops = [
                float(torch.sort(dense[who][name].flatten(), descending=True).values[:6].sum())
                for who in ("content", "style")
            ]
            scale = alpha * (done % total) / total + beta
            scale = scale % alpha if wraps else scale
            if (tops[0] / gamma) / (tops[1] * scale or 1e-30) > 1:
                chosen.add(name)
            done += 1
        choices.append(chosen)
    return choices


@pytest.mark.parametrize(("alpha", "beta", "wraps"), [(1.5, 1.275, 1), (1.5, 0.5, 0), (3, 0, 1)])
def test_the_choices_are_the_papers(
    deltas: dict[str, Delta], alpha: float, beta: float, wraps: int
) -> None:
    steps = schedule(plan_of(alpha=alpha, beta=beta, wraps=wraps), deltas, STEPS)
    found = [{name for name in step["hub:content@1"].updates if name in LAYERS} for step in steps]
    assert found == papers_choices(deltas, alpha, beta, bool(wraps))
    assert any(found)
    assert found != [set(LAYERS)] * STEPS


def test_every_layer_is_drawn_by_one_and_what_is_not_compared_by_all(
    deltas: dict[str, Delta],
) -> None:
    for step in schedule(plan_of(), deltas, STEPS):
        content, style = (set(step[f"hub:{who}@1"].updates) for who in ("content", "style"))
        assert content & style == {TEXT}
        assert content | style == {*LAYERS, TEXT, ALONE}
        assert step["hub:model@1"] is deltas["hub:model@1"]


def test_an_expert_that_is_left_out_leaves_all_to_the_other(deltas: dict[str, Delta]) -> None:
    del deltas["hub:style@1"]
    assert schedule(plan_of(), deltas, 3) == [deltas] * 3


def test_an_empty_style_leaves_all_to_the_content(deltas: dict[str, Delta]) -> None:
    zeros = {name: DenseUpdate(torch.zeros(6, 8)) for name in LAYERS}
    deltas["hub:style@1"] = Delta(zeros, "lora", Coverage())
    for step in schedule(plan_of(), deltas, STEPS):
        assert not step["hub:style@1"].updates


def test_other_rules_have_no_schedule(deltas: dict[str, Delta]) -> None:
    with pytest.raises(PlanError, match="linear"):
        schedule(MergePlan(family="emoji64"), deltas, 4)
