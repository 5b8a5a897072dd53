"""How is a plan said in nodes of ComfyUI?

Nodes for ComfyUI's API, to be added to a workflow; the last ones give the model and the text
encoder to go on with. They can say a linear merge and nothing else. Files are called as the hub
calls them.
"""

import json
from collections.abc import Sequence

from diffgraph.errors import PlanError
from diffgraph.merging.sources import MergeSources

BASE = "base"
NEARLY = 1e-9


def comfyui(sources: MergeSources) -> str:
    """Return nodes that load and merge the plan's files, as ComfyUI's API reads them.

    Raises:
        PlanError: the rule is not linear, or a checkpoint has a share below 0 or above 1.
    """
    sources.demand_linear("ComfyUI's nodes")
    files = sources.files
    parts = [(files[ref], share) for ref, share in sources.of_kind("checkpoint")]
    rest = 1 - sum(value for _, value in parts)
    if abs(rest) > NEARLY:
        parts.insert(0, (f"{BASE}.safetensors", rest))
    if any(value < 0 for _, value in parts):
        raise PlanError(
            f"plan {sources.plan.id}: ComfyUI mixes checkpoints by shares of 0 to 1: "
            "`diffgraph merge` writes a file"
        )
    nodes: dict[str, dict[str, object]] = {}
    last = _mixed(nodes, parts)
    for ref, strength in sources.of_kind("peft"):
        inputs = {
            "model": [last[0], 0],
            "clip": [last[1], last[2]],
            "lora_name": files[ref],
            "strength_model": strength,
            "strength_clip": strength,
        }
        name = _add(nodes, "LoraLoader", inputs)
        last = (name, name, 1)
    return json.dumps(nodes, indent=2)


def _mixed(
    nodes: dict[str, dict[str, object]], parts: Sequence[tuple[str, float]]
) -> tuple[str, str, int]:
    """Add the nodes of a weighted mean of checkpoints; return where its model and text are."""
    first, *others = parts
    loaded = _add(nodes, "CheckpointLoaderSimple", {"ckpt_name": first[0]})
    model, clip, slot, total = loaded, loaded, 1, first[1]
    for file, share in others:
        loaded = _add(nodes, "CheckpointLoaderSimple", {"ckpt_name": file})
        ratio = total / (total + share)  # of the first of the two
        model = _add(
            nodes,
            "ModelMergeSimple",
            {"model1": [model, 0], "model2": [loaded, 0], "ratio": ratio},
        )
        clip = _add(
            nodes,
            "CLIPMergeSimple",
            {"clip1": [clip, slot], "clip2": [loaded, 1], "ratio": ratio},
        )
        slot, total = 0, total + share
    return model, clip, slot


def _add(nodes: dict[str, dict[str, object]], kind: str, inputs: dict[str, object]) -> str:
    name = str(len(nodes) + 1)
    nodes[name] = {"class_type": kind, "inputs": inputs}
    return name
