"""A stand-in for ComfyUI: what its stock nodes take and give, by its `nodes.py` of 2026."""

from typing import Any

SAMPLERS = {"euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "uni_pc", "lcm"}
SCHEDULERS = {"normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta"}
FILE = "a name of a list of files"
NODES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": FILE}, ("MODEL", "CLIP", "VAE")),
    "UNETLoader": (
        {"unet_name": FILE, "weight_dtype": {"default", "fp8_e4m3fn", "fp8_e5m2"}}, ("MODEL",)
    ),
    "DualCLIPLoader": (
        {"clip_name1": FILE, "clip_name2": FILE, "type": {"sdxl", "sd3", "flux"}}, ("CLIP",)
    ),
    "VAELoader": ({"vae_name": FILE}, ("VAE",)),
    "ModelMergeSimple": ({"model1": "MODEL", "model2": "MODEL", "ratio": (0.0, 1.0)}, ("MODEL",)),
    "CLIPMergeSimple": ({"clip1": "CLIP", "clip2": "CLIP", "ratio": (0.0, 1.0)}, ("CLIP",)),
    "LoraLoader": (
        {
            "model": "MODEL", "clip": "CLIP", "lora_name": FILE,
            "strength_model": (-100.0, 100.0), "strength_clip": (-100.0, 100.0),
        },
        ("MODEL", "CLIP"),
    ),
    "CLIPSetLastLayer": ({"clip": "CLIP", "stop_at_clip_layer": (-24, -1)}, ("CLIP",)),
    "CLIPTextEncode": ({"text": str, "clip": "CLIP"}, ("CONDITIONING",)),
    "FluxGuidance": (
        {"conditioning": "CONDITIONING", "guidance": (0.0, 100.0)}, ("CONDITIONING",)
    ),
    "EmptyLatentImage": (
        {"width": (16, 16384), "height": (16, 16384), "batch_size": (1, 4096)}, ("LATENT",)
    ),
    "EmptySD3LatentImage": (
        {"width": (16, 16384), "height": (16, 16384), "batch_size": (1, 4096)}, ("LATENT",)
    ),
    "KSampler": (
        {
            "model": "MODEL", "seed": (0, 2**64 - 1), "steps": (1, 10000), "cfg": (0.0, 100.0),
            "sampler_name": SAMPLERS, "scheduler": SCHEDULERS, "positive": "CONDITIONING",
            "negative": "CONDITIONING", "latent_image": "LATENT", "denoise": (0.0, 1.0),
        },
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": str}, ()),
}  # fmt: skip
"""By class: the required inputs, each with its type, bounds or choices, and the types it gives."""


def demand_runnable(graph: dict[str, Any]) -> list[str]:
    """Check a graph as ComfyUI does before it runs it; return the nodes that write something."""
    for name, node in graph.items():
        wanted, _ = NODES[node["class_type"]]
        given = node["inputs"]
        assert given.keys() == wanted.keys(), (name, node)
        for key, kind in wanted.items():
            value = given[key]
            if isinstance(value, list):
                source, output = value
                assert NODES[graph[source]["class_type"]][1][output] == kind, (name, key)
            elif isinstance(kind, tuple):
                assert type(value) in {int, type(kind[0])}, (name, key)
                assert kind[0] <= value <= kind[1], (name, key)
            elif isinstance(kind, set):
                assert value in kind, (name, key)
            else:
                assert kind in (FILE, str), (name, key)
                assert isinstance(value, str), (name, key)
    return [name for name, node in graph.items() if not NODES[node["class_type"]][1]]
