"""Plans as nodes of ComfyUI."""

import json
from dataclasses import replace

import pytest

from diffgraph.errors import PlanError
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.merging.comfyui_graph import comfyui
from diffgraph.merging.generation_settings import GenerationSettings
from tests.comfyui import demand_runnable
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
    expected = {"v1-5-pruned.safetensors": 0.3, "one.safetensors": 0.5, "two.safetensors": 0.2,
                "pencil v2.safetensors": 0.8, "styles/night, (x).safetensors": -0.25}  # fmt: skip
    assert found == pytest.approx(expected)


def test_nodes_for_the_base_alone() -> None:
    nodes = json.loads(comfyui(sources(a=1.0)))
    assert [node["class_type"] for node in nodes.values()] == [
        "CheckpointLoaderSimple", "LoraLoader"]  # fmt: skip
    assert nodes["2"]["inputs"]["clip"] == ["1", 1]


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_whole_graph_is_one_that_comfyui_runs(family: str) -> None:
    text = "a (red:1.2) cat\nNegative prompt: blurry\nSteps: 2, Clip skip: 2, Seed: 1"
    sampler = SamplerConfig(steps=25, guidance=7.5)
    drawn = GenerationSettings.of(get_family(family), text, sampler, 2**63 - 1, (512, 768))
    plan = sources(m=0.5, n=0.2, a=0.8).plan.model_copy(update={"family": family})
    graph = json.loads(comfyui(replace(sources(m=0.5, n=0.2, a=0.8), plan=plan), drawn))
    (end,) = demand_runnable(graph)
    assert graph[end]["class_type"] == "SaveImage"
    (sampler_node,) = [node for node in graph.values() if node["class_type"] == "KSampler"]
    given = sampler_node["inputs"]
    assert (given["seed"], given["steps"]) == (2**63 - 1, 25)
    assert given["cfg"] == {"sd15": 7.5, "flux": 1.0}[family]
    texts = [node["inputs"]["text"] for node in graph.values() if "text" in node["inputs"]]
    assert texts == ["a (red:1.2) cat", "blurry"]
    (last,) = [node for node in graph.values() if node["class_type"] == "CLIPSetLastLayer"]
    assert last["inputs"]["stop_at_clip_layer"] == -2
    (latent,) = [node["inputs"] for node in graph.values() if "batch_size" in node["inputs"]]
    assert (latent["width"], latent["height"]) == (512, 768)


def test_what_cannot_be_said() -> None:
    for given in (sources("ties", a=1, b=1), sources(m=1.5, a=1)):
        with pytest.raises(PlanError, match="merge"):
            comfyui(given)
