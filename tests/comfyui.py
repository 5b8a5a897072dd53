"""A stand-in for ComfyUI: what its stock nodes take and give, by its `nodes.py` of 2026."""

from inspect import Parameter, signature
from types import ModuleType
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


class Patcher:
    """A model or a text encoder as ComfyUI hands it on: patches are added to clones."""

    def __init__(self, patches: tuple[tuple[dict[str, Any], float], ...] = ()) -> None:
        self.patches = patches

    def clone(self) -> "Patcher":
        return Patcher(self.patches)

    def add_patches(
        self, patches: dict[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[str]:
        self.patches = (*self.patches, (patches, strength_patch))
        return list(patches)


def load_torch_file(
    ckpt: str, safe_load: bool = False, device: Any = None, return_metadata: bool = False
) -> Any:
    from safetensors.torch import load_file

    assert safe_load, "a file of strangers"
    return load_file(ckpt)


def load_lora_for_models(
    model: Any, clip: Any, lora: dict[str, Any], strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    given = [(model, strength_model), (clip, strength_clip)]
    patched = []
    for one, strength in given:
        copy = None if one is None else one.clone()
        if copy is not None:
            copy.add_patches(lora, strength)
        patched.append(copy)
    return patched[0], patched[1]


def modules() -> dict[str, ModuleType]:
    """Return ComfyUI's modules that a node imports, by name."""
    found = {name: ModuleType(name) for name in ("comfy", "comfy.sd", "comfy.utils")}
    vars(found["comfy"]).update(sd=found["comfy.sd"], utils=found["comfy.utils"], __path__=[])
    vars(found["comfy.sd"])["load_lora_for_models"] = load_lora_for_models
    vars(found["comfy.utils"])["load_torch_file"] = load_torch_file
    return found


def demand_node(kind: Any) -> None:
    """Check a node's class as ComfyUI does when it takes it in."""
    inputs = kind.INPUT_TYPES()
    assert inputs.keys() <= {"required", "optional", "hidden"}
    function = signature(getattr(kind, kind.FUNCTION)).parameters
    for group, wanted in inputs.items():
        for name, (type_, *options) in wanted.items():
            assert isinstance(type_, str) or all(isinstance(choice, str) for choice in type_)
            assert len(options) <= 1
            is_optional = function[name].default is not Parameter.empty
            assert is_optional == (group == "optional"), name
    assert function.keys() - {"self"} == {name for group in inputs.values() for name in group}
    assert all(isinstance(name, str) for name in kind.RETURN_TYPES)
    assert len(kind.RETURN_NAMES) == len(kind.RETURN_TYPES)
    assert isinstance(kind.CATEGORY, str)
