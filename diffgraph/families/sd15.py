"""Stable Diffusion 1.5: the base model of most community experts.

https://arxiv.org/abs/2112.10752
"""

from typing import TYPE_CHECKING, Any

from diffgraph.errors import MissingInput
from diffgraph.families.bases import BaseLocation, load_base, load_component, weights_of
from diffgraph.families.family import Family, SamplerConfig, SamplerNames
from diffgraph.families.quantised import refuse_quantised
from diffgraph.families.scorer import PUBLISHED

if TYPE_CHECKING:
    import torch

    from diffgraph.families.stable_diffusion import StableDiffusion

HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"
COMPONENTS = ("unet", "text_encoder", "vae")
LATENT_CHANNELS = 4
IMAGES_AT_ONCE = {"cuda": 16, "cpu": 4}  # each with and without guidance
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
NOT_WEIGHTS = ("position_ids", "text_projection.weight")


def load(
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    place: str | None = None,
    offline: bool = False,
) -> "StableDiffusion":
    """Load a base as `load_base` does; in half precision on a GPU unless another type is given."""
    import torch

    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    model = load_base(SD15, _assembled, device, dtype, place, offline)
    model.images_at_once = IMAGES_AT_ONCE.get(device.type, 1)
    return model


def _assembled(base: BaseLocation, dtype: "torch.dtype", offline: bool) -> "StableDiffusion":
    from diffusers import DPMSolverMultistepScheduler

    from diffgraph.families.stable_diffusion import StableDiffusion

    if base.file:
        model = _from_file(base, dtype, offline)
    else:
        model = StableDiffusion.from_folder("sd15", base.folder, SD15.sampler, "cpu", dtype)
    model.scheduler = DPMSolverMultistepScheduler.from_pretrained(
        base.folder / "scheduler", local_files_only=True
    )
    _demand_text_to_image(model, base)
    return model


def _from_file(base: BaseLocation, dtype: "torch.dtype", offline: bool) -> "StableDiffusion":
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors import safe_open
    from transformers import CLIPTextModel, CLIPTokenizer

    from diffgraph.families.stable_diffusion import StableDiffusion

    assert base.file is not None
    refuse_quantised(base.file)
    with safe_open(str(base.file), "pt") as file:
        keys = frozenset(file.keys())
    given: dict[str, Any] = {
        "config": str(base.folder),
        "local_files_only": True,
        "torch_dtype": dtype,
    }
    if any(key.startswith(VAE) for key in keys):
        vae = AutoencoderKL.from_single_file(str(base.file), subfolder="vae", **given)
    else:
        vae = load_component(AutoencoderKL, weights_of(SD15, base, "vae", offline), dtype)
    if any(key.startswith(TEXT) for key in keys):
        text_encoder = _text_encoder(base, dtype)
    else:
        folder = weights_of(SD15, base, "text_encoder", offline)
        text_encoder = load_component(CLIPTextModel, folder, dtype)
    return StableDiffusion(
        "sd15",
        CLIPTokenizer.from_pretrained(base.folder / "tokenizer", local_files_only=True),
        text_encoder,
        UNet2DConditionModel.from_single_file(str(base.file), subfolder="unet", **given),
        vae,
        None,
        SD15.sampler,
    )


def _text_encoder(base: BaseLocation, dtype: "torch.dtype") -> Any:
    """Return the text encoder in a single file, with or without `text_model.` in its names."""
    from safetensors import safe_open
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_pretrained(base.folder / "text_encoder", local_files_only=True)
    encoder = CLIPTextModel(config)
    with safe_open(str(base.file), "pt") as file:
        weights = {
            key.removeprefix(TEXT).removeprefix("text_model."): file.get_tensor(key)
            for key in file.keys()
            if key.startswith(TEXT) and not key.endswith(NOT_WEIGHTS)
        }
    encoder.load_state_dict(weights)
    return encoder.to(dtype)


def _demand_text_to_image(model: "StableDiffusion", base: BaseLocation) -> None:
    """Raise `MissingInput` for a model of this shape that is not of this family.

    An inpainting or editing model's UNet sees more than noise; one that predicts velocity would
    draw nothing but noise with the family's experts.
    """
    place = base.file or base.folder
    seen = model.unet.config.in_channels
    if seen != LATENT_CHANNELS:
        raise MissingInput(
            f"{place} is not a text-to-image model: its UNet takes {seen} channels, not "
            f"{LATENT_CHANNELS}"
        )
    predicted = model.scheduler.config.prediction_type
    if predicted != SD15.prediction:
        raise MissingInput(f"{place} predicts {predicted}, not {SD15.prediction}")


SD15 = Family(
    name="sd15",
    title="Stable Diffusion 1.5 (512 px)",
    resolution=512,
    sides=range(64, 2049, 8),
    sampler=SamplerConfig(steps=25, guidance=7.5),
    sampler_names=SamplerNames(
        "DPM++ 2M", "Uniform", "dpmpp_2m", "normal", "DPMSolverMultistepScheduler"
    ),
    hub_names=("SD 1.5", HUB, "runwayml/stable-diffusion-v1-5"),
    load=load,
    scorers=PUBLISHED,
    # Guides to LoRAs advise 0.6 to 0.9 where several are used
    # (https://www.sjlyedu.com/ai_suggestion_words/en/article-lora-basics.html).
    usual_strength=0.8,
    usual_base=HUB,
    components=COMPONENTS,
    prediction="epsilon",
)
