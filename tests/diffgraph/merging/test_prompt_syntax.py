"""Plans in the words of A1111 and ComfyUI."""

import json

import pytest

from diffgraph.errors import PlanError
from diffgraph.experts.expert import Expert
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.prompt_syntax import a1111, comfyui, needed_checkpoint

FILES = {"h:a@1": "pencil v2.safetensors", "h:b@1": "night<x>.safetensors",
         "h:m@1": "one.safetensors", "h:n@1": "two.safetensors"}  # fmt: skip


def case(rule: str = "linear", **coefficients: float) -> tuple[MergePlan, dict[str, Expert]]:
    kinds = {name: "checkpoint" if name in "mn" else "peft" for name in coefficients}
    experts = tuple(
        PlannedExpert(ref=f"h:{name}@1", kind=kinds[name], coefficient=value)
        for name, value in coefficients.items()
    )
    rows = {
        f"h:{name}@1": Expert(ref=f"h:{name}@1", name=name, kind=kinds[name], family="sd15")
        for name, value in coefficients.items()
    }
    return MergePlan(family="sd15", experts=experts, rule=rule), rows


def weights(nodes: dict) -> dict[str, float]:
    """Follow ComfyUI's graph: what each file ends up multiplied by."""

    def model(place: list) -> dict[str, float]:
        node = nodes[place[0]]
        given = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            return {given["ckpt_name"]: 1.0}
        if node["class_type"] == "LoraLoader":
            return {**model(given["model"]), given["lora_name"]: given["strength_model"]}
        assert node["class_type"] == "ModelMergeSimple"  # model1 * ratio + model2 * (1 - ratio)
        first, second = model(given["model1"]), model(given["model2"])
        shares = {name: value * given["ratio"] for name, value in first.items()}
        for name, value in second.items():
            shares[name] = shares.get(name, 0) + value * (1 - given["ratio"])
        return shares

    return model([list(nodes)[-1], 0])


def test_a_prompt() -> None:
    plan, experts = case(a=0.8, b=-0.25)
    assert a1111(plan, experts, FILES) == "<lora:pencil v2:0.8> <lora:night_x_:-0.25>"
    assert needed_checkpoint(experts, FILES) == ""


def test_a_prompt_for_another_checkpoint() -> None:
    plan, experts = case(a=0.8, m=1)
    assert a1111(plan, experts, FILES) == "<lora:pencil v2:0.8>"
    assert needed_checkpoint(experts, FILES) == "one.safetensors"


def test_nodes_mix_what_the_plan_mixes() -> None:
    plan, experts = case(m=0.5, n=0.2, a=0.8, b=-0.25)
    found = weights(json.loads(comfyui(plan, experts, FILES)))
    expected = {"base.safetensors": 0.3, "one.safetensors": 0.5, "two.safetensors": 0.2,
                "pencil v2.safetensors": 0.8, "night<x>.safetensors": -0.25}  # fmt: skip
    assert found == pytest.approx(expected)


def test_nodes_for_the_base_alone() -> None:
    plan, experts = case(a=1.0)
    nodes = json.loads(comfyui(plan, experts, FILES))
    assert [node["class_type"] for node in nodes.values()] == [
        "CheckpointLoaderSimple", "LoraLoader"]  # fmt: skip
    assert nodes["2"]["inputs"]["clip"] == ["1", 1]


@pytest.mark.parametrize("say", [a1111, comfyui])
def test_what_cannot_be_said(say) -> None:
    for plan, experts in (case("ties", a=1, b=1), case(m=1.5, a=1)):
        with pytest.raises(PlanError):
            say(plan, experts, FILES)
    with pytest.raises(PlanError, match="mixes checkpoints"):
        a1111(*case(m=0.5, a=1), FILES)
