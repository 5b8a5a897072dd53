"""How is an image of a plan drawn by ComfyUI's stock nodes?

A graph in the form of ComfyUI's API, which its window opens, too. It can say a linear merge and
nothing else. Files are called as the hub, or their folder, calls them; FLUX's text encoders and
autoencoder as ComfyUI's own examples do.
"""

import json
from collections.abc import Sequence

from diffgraph.errors import PlanError
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.sources import MergeSources

NEARLY = 1e-9
FLUX_TEXT_ENCODERS = ("t5xxl_fp16.safetensors", "clip_l.safetensors")
FLUX_AUTOENCODER = "ae.safetensors"

Output = tuple[str, int]
"""A node and which of its outputs."""
Nodes = dict[str, dict[str, object]]


def comfyui(sources: MergeSources, drawn: GenerationSettings | None = None) -> str:
    """Return nodes that load and merge the plan's files and, if it is said what, draw an image.

    Without `drawn`, the last node gives the model and the text encoder to go on with.

    Raises:
        PlanError: the rule is not linear, or a checkpoint has a share below 0 or above 1.
    """
    sources.demand_linear("ComfyUI's nodes")
    nodes: Nodes = {}
    load = _load_flux if sources.plan.family == "flux" else _load_checkpoints
    model, clip, vae = load(nodes, _shares(sources))
    for ref, strength in sources.of_kind("peft"):
        name = _add(
            nodes,
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name=sources.files[ref],
            strength_model=strength,
            strength_clip=strength,
        )
        model, clip = (name, 0), (name, 1)
    if drawn is not None:
        vae = vae or (_add(nodes, "VAELoader", vae_name=FLUX_AUTOENCODER), 0)
        _draw(nodes, model, clip, vae, drawn)
    return json.dumps(nodes, indent=2, ensure_ascii=False)


def _shares(sources: MergeSources) -> list[tuple[str, float]]:
    """Return the files of whole models and the share of each, the base's first if it has one."""
    parts = [(sources.files[ref], share) for ref, share in sources.of_kind("checkpoint")]
    rest = 1 - sum(share for _, share in parts)
    if abs(rest) > NEARLY:
        parts.insert(0, (sources.base.file, rest))
    if any(share < 0 for _, share in parts):
        raise PlanError(
            f"plan {sources.plan.id}: ComfyUI mixes checkpoints by shares of 0 to 1: "
            "`diffgraph merge` writes a file"
        )
    return parts


def _load_checkpoints(
    nodes: Nodes, parts: Sequence[tuple[str, float]]
) -> tuple[Output, Output, Output | None]:
    """Add the nodes of a weighted mean; return its model, text encoder and autoencoder."""
    loaders = [_add(nodes, "CheckpointLoaderSimple", ckpt_name=file) for file, _ in parts]
    model = _mean(nodes, "ModelMergeSimple", "model", [(one, 0) for one in loaders], parts)
    clip = _mean(nodes, "CLIPMergeSimple", "clip", [(one, 1) for one in loaders], parts)
    return model, clip, (loaders[0], 2)


def _load_flux(
    nodes: Nodes, parts: Sequence[tuple[str, float]]
) -> tuple[Output, Output, Output | None]:
    """As `_load_checkpoints`: FLUX's files hold a transformer and nothing else."""
    loaders = [
        _add(nodes, "UNETLoader", unet_name=file, weight_dtype="default") for file, _ in parts
    ]
    model = _mean(nodes, "ModelMergeSimple", "model", [(one, 0) for one in loaders], parts)
    first, second = FLUX_TEXT_ENCODERS
    clip = _add(nodes, "DualCLIPLoader", clip_name1=first, clip_name2=second, type="flux")
    return model, (clip, 0), None


def _mean(
    nodes: Nodes, kind: str, what: str, loaded: list[Output], parts: Sequence[tuple[str, float]]
) -> Output:
    """Add the nodes that mix what was loaded by its shares, one after the other."""
    merged, total = loaded[0], parts[0][1]
    for other, (_, share) in zip(loaded[1:], parts[1:], strict=True):
        ratio = total / (total + share)  # of the first of the two
        total += share
        mixed = {f"{what}1": merged, f"{what}2": other, "ratio": ratio}
        merged = (_add(nodes, kind, **mixed), 0)
    return merged


def _draw(
    nodes: Nodes, model: Output, clip: Output, vae: Output, drawn: GenerationSettings
) -> None:
    if drawn.clip_skip > 1:
        last = {"clip": clip, "stop_at_clip_layer": -drawn.clip_skip}
        clip = (_add(nodes, "CLIPSetLastLayer", **last), 0)
    positive = (_add(nodes, "CLIPTextEncode", text=drawn.text, clip=clip), 0)
    negative = (_add(nodes, "CLIPTextEncode", text=drawn.negative, clip=clip), 0)
    scale, latent = drawn.sampler.guidance, "EmptyLatentImage"
    if drawn.family.is_guidance_distilled:
        guided = {"conditioning": positive, "guidance": scale}
        positive = (_add(nodes, "FluxGuidance", **guided), 0)
        scale, latent = 1.0, "EmptySD3LatentImage"
    size = {"width": drawn.width, "height": drawn.height, "batch_size": 1}
    sampled = _add(
        nodes,
        "KSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=(_add(nodes, latent, **size), 0),
        seed=drawn.seed,
        steps=drawn.sampler.steps,
        cfg=scale,
        sampler_name=drawn.family.sampler_names.comfyui,
        scheduler=drawn.family.sampler_names.comfyui_schedule,
        denoise=1.0,
    )
    decoded = _add(nodes, "VAEDecode", samples=(sampled, 0), vae=vae)
    _add(nodes, "SaveImage", images=(decoded, 0), filename_prefix="diffgraph")


def _add(nodes: Nodes, kind: str, **inputs: object) -> str:
    name = str(len(nodes) + 1)
    nodes[name] = {"class_type": kind, "inputs": inputs}
    return name
