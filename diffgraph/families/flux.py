"""FLUX.1: a transformer of 12 billion parameters, guidance distilled into it.

https://github.com/black-forest-labs/flux
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffgraph.errors import MissingInput
from diffgraph.families.bases import BaseLocation, load_base, load_component, weights_of
from diffgraph.families.family import Family, SamplerConfig, SamplerNames
from diffgraph.families.quantised import refuse_quantised
from diffgraph.families.scorer import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from diffgraph.families.flux_model import Flux

HUB = "black-forest-labs/FLUX.1-dev"
COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
PREFIX = "model.diffusion_model."
RESOLUTION = 1024


def load(
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    place: str | None = None,
    offline: bool = False,
) -> "Flux":
    """Load a base as `load_base` does, in bfloat16, which it was published in, unless asked.

    A single file holds the transformer; everything else is taken from the folder of the file's
    name beside it, or from the hub.
    """
    import torch

    return load_base(FLUX, _assembled, device, dtype or torch.bfloat16, place, offline)


def _assembled(base: BaseLocation, dtype: "torch.dtype", offline: bool) -> "Flux":
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

    from diffgraph.families.flux_model import PATCH, Flux

    def load_other(kind: Any, component: str) -> Any:
        return load_component(kind, weights_of(FLUX, base, component, offline), dtype)

    folder = base.folder
    if base.file:
        transformer = _from_file(base.file, folder / "transformer", dtype)
    else:
        transformer = load_component(FluxTransformer2DModel, folder / "transformer", dtype)
    vae = load_other(AutoencoderKL, "vae")
    seen, own = transformer.config.in_channels, vae.config.latent_channels * PATCH**2
    if seen != own:
        raise MissingInput(
            f"{base.file or folder} is not a text-to-image model: its transformer takes {seen} "
            f"channels, not {own}"
        )
    return Flux(
        "flux",
        CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        load_other(CLIPTextModel, "text_encoder"),
        T5TokenizerFast.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        load_other(T5EncoderModel, "text_encoder_2"),
        transformer,
        vae,
        FlowMatchEulerDiscreteScheduler.from_pretrained(
            folder / "scheduler", local_files_only=True
        ),
        FLUX.sampler,
        FLUX.resolution,
    )


def _from_file(file: "Path", description: "Path", dtype: "torch.dtype") -> Any:
    """Return the transformer in one file, in its makers' layout or diffusers'."""
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        config = FluxTransformer2DModel.load_config(description, local_files_only=True)
        transformer = FluxTransformer2DModel.from_config(config)
    shapes = {name: tuple(value.shape) for name, value in transformer.named_parameters()}
    transformer.load_state_dict(read_transformer(file, shapes, dtype), assign=True)
    return transformer


def read_transformer(
    file: "Path", shapes: "Mapping[str, tuple[int, ...]]", dtype: "torch.dtype"
) -> "dict[str, Tensor]":
    """Return a transformer's weights by diffusers' names, whichever layout the file has.

    Args:
        file: safetensors; may hold other components as well.
        shapes: diffusers' name of each parameter -> its shape.
        dtype: of what is returned.

    Raises:
        MissingInput: a parameter is missing, has another shape, or is quantised.
    """
    from safetensors import safe_open

    from diffgraph.families import flux_layout

    known = {f"{flux_layout.OURS}{name}": shape for name, shape in shapes.items()}
    places = flux_layout.parameters(known)
    weights: dict[str, Tensor] = {}
    refuse_quantised(file)
    with safe_open(str(file), "pt") as opened:
        for key in opened.keys():
            name = key.removeprefix(PREFIX)
            if name in places:
                value = opened.get_tensor(key).to(dtype)
                for placement in places[name]:
                    ours = placement.name.removeprefix(flux_layout.OURS)
                    # a copy, so that what shares a fused tensor doesn't keep the whole alive
                    weights[ours] = placement.take(value).clone()
            elif name.removeprefix(flux_layout.OURS) in shapes:
                weights[name.removeprefix(flux_layout.OURS)] = opened.get_tensor(key).to(dtype)
    for name, shape in shapes.items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            raise MissingInput(f"{file.name}: {name} should be {shape}, found {found}")
    return weights


FLUX = Family(
    name="flux",
    title="FLUX.1 dev (1024 px)",
    resolution=RESOLUTION,
    sides=range(256, 2049, 16),
    sampler=SamplerConfig(steps=28, guidance=3.5),
    sampler_names=SamplerNames("Euler", "Simple", "euler", "simple"),
    is_guidance_distilled=True,
    hub_names=("Flux.1 D", HUB),
    load=load,
    scorers=PUBLISHED,
    # the default `lora_scale` of https://replicate.com/black-forest-labs/flux-dev-lora
    usual_strength=0.8,
    usual_base=HUB,
    components=COMPONENTS,
    prediction="flow",
)
