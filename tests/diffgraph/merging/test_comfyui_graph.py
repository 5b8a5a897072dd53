"""Plans as nodes of ComfyUI."""

import json

import pytest

from diffgraph.errors import PlanError
from diffgraph.merging.comfyui_graph import comfyui
from tests.merge_sources import sources


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


def test_nodes_mix_what_the_plan_mixes() -> None:
    found = weights(json.loads(comfyui(sources(m=0.5, n=0.2, a=0.8, b=-0.25))))
    expected = {"base.safetensors": 0.3, "one.safetensors": 0.5, "two.safetensors": 0.2,
                "pencil v2.safetensors": 0.8, "styles/night, (x).safetensors": -0.25}  # fmt: skip
    assert found == pytest.approx(expected)


def test_nodes_for_the_base_alone() -> None:
    nodes = json.loads(comfyui(sources(a=1.0)))
    assert [node["class_type"] for node in nodes.values()] == [
        "CheckpointLoaderSimple", "LoraLoader"]  # fmt: skip
    assert nodes["2"]["inputs"]["clip"] == ["1", 1]


def test_what_cannot_be_said() -> None:
    for given in (sources("ties", a=1, b=1), sources(m=1.5, a=1)):
        with pytest.raises(PlanError, match="merge"):
            comfyui(given)
