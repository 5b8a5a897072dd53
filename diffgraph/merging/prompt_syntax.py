"""How is a plan said in the words of other tools?

* `a1111`: what is put into a prompt of A1111, Forge or SD.Next.
* `comfyui`: nodes for ComfyUI's API, to be added to a workflow; the last ones give the model and
  the text encoder to go on with.

Both can say a linear merge and nothing else. Files are called as the hub calls them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from diffgraph.errors import PlanError
from diffgraph.experts.expert import Expert
from diffgraph.merging.plan import MergePlan

Syntax = Literal["a1111", "comfyui"]
BASE = "base"
NEARLY = 1e-9


def a1111(plan: MergePlan, experts: Mapping[str, Expert], files: Mapping[str, str]) -> str:
    """Return the plan's LoRAs as they are written into a prompt, by their files' names.

    Raises:
        PlanError: the rule is not linear, or there are checkpoints that a prompt cannot mix.
    """
    coefficients = _coefficients(plan)
    checkpoints = [ref for ref in sorted(experts) if experts[ref].kind == "checkpoint"]
    if checkpoints and [coefficients[ref] for ref in checkpoints] != [1.0]:
        raise PlanError(
            f"plan {plan.id} mixes checkpoints, which no prompt can: merge it to a file with --out"
        )
    return " ".join(
        f"<lora:{_stem(files[ref])}:{coefficients[ref]:.6g}>"
        for ref in sorted(experts)
        if experts[ref].kind == "peft"
    )


def needed_checkpoint(experts: Mapping[str, Expert], files: Mapping[str, str]) -> str:
    """Return the file of the checkpoint that has to be chosen beside the prompt, or ''."""
    return next((files[ref] for ref in experts if experts[ref].kind == "checkpoint"), "")


def comfyui(plan: MergePlan, experts: Mapping[str, Expert], files: Mapping[str, str]) -> str:
    """Return nodes that load and merge the plan's files, as ComfyUI's API reads them.

    Arguments and errors as `a1111`, but for checkpoints: these are mixed one after the other.
    """
    coefficients = _coefficients(plan)
    parts = [
        (files[ref], coefficients[ref])
        for ref in sorted(experts)
        if experts[ref].kind == "checkpoint"
    ]
    rest = 1 - sum(value for _, value in parts)
    if abs(rest) > NEARLY:
        parts.insert(0, (f"{BASE}.safetensors", rest))
    if any(value < 0 for _, value in parts):
        raise PlanError(
            f"plan {plan.id}: ComfyUI mixes checkpoints by shares of 0 to 1: merge it to a file"
        )
    nodes: dict[str, dict[str, object]] = {}
    last = _mixed(nodes, parts)
    for ref in sorted(experts):
        if experts[ref].kind == "peft":
            strength = coefficients[ref]
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


SYNTAXES = {"a1111": a1111, "comfyui": comfyui}


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


def _coefficients(plan: MergePlan) -> dict[str, float]:
    if not plan.is_linear:
        raise PlanError(
            f"the rule {plan.rule} cannot be said in a prompt: merge it to a file with --out"
        )
    return plan.coefficients()


def _stem(file: str) -> str:
    """Return a file's name as prompts have it: without its end, and nothing that ends the tag."""
    name = file.removesuffix(".safetensors")
    return "".join("_" if letter in "<>:" else letter for letter in name)
