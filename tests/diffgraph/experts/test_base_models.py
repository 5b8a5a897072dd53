"""Which base a file is for: believed where its header says it, named where its keys show it."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.base_models import base_of
from diffgraph.experts.reading import open_delta

QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
TEXT = "text_encoder.encoder.layers.0.mlp.fc1.weight"


def stable_diffusion(width: int) -> dict[str, torch.Tensor]:
    return {QUERY: torch.zeros(6, width), TEXT: torch.zeros(20, 10)}


BASES: Mapping[str, Mapping[str, torch.Tensor]] = {
    "SD 1.x": stable_diffusion(768),
    "SD 2.x": stable_diffusion(1024),
    "SDXL": stable_diffusion(2048),
    "another": stable_diffusion(64),  # emoji64's kind
    "FLUX": {
        "transformer.single_transformer_blocks.0.attn.to_q.weight": torch.zeros(6, 8),
        TEXT: torch.zeros(20, 10),
    },
}
STEM = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
WORDS = {
    f"{STEM}.lora_down.weight": torch.ones(2, 10),
    f"{STEM}.lora_up.weight": torch.ones(20, 2),
}
"""The text encoder's part of a LoRA: its shapes fit many bases."""

SAID: dict[str, list[dict[str, str]]] = {
    "SDXL": [
        {"ss_base_model_version": "sdxl_base_v1-0"},
        {"ss_base_model_version": "SDXL 1.0"},
        {"ss_base_model_version": "sd_xl_base_1.0"},
        {"ss_base_model_version": "Illustrious"},
        {"ss_base_model_version": "Pony"},
        {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
        {"modelspec.architecture": "stable-diffusion-xl-1.0-base"},
        {"ss_sd_model_name": "sd_xl_base_1.0_0.9vae.safetensors"},
        {"base_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0"},
        {
            "adapter_config.json": json.dumps(
                {"base_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0"}
            )
        },
        {"baseModel": "NoobAI"},
    ],
    "SD 1.x": [
        {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
        {"ss_base_model_version": "sd1.5"},
        {"ss_base_model_version": "sd_1.5"},
        {"modelspec.architecture": "stable-diffusion-v1/lora"},
        {"base_model_name_or_path": "runwayml/stable-diffusion-v1-5"},
        {"base_model_name_or_path": "/home/flux/models/stable-diffusion-v1-5"},
        {"ss_sd_model_name": "v1-5-pruned-emaonly.safetensors"},
    ],
    "SD 2.x": [
        {"ss_v2": "True"},
        {"ss_base_model_version": "sd_v2_768_v"},
        {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"},
        {"base_model_name_or_path": "stabilityai/stable-diffusion-2-1"},
    ],
    "FLUX": [
        {"ss_base_model_version": "flux1"},
        {"modelspec.architecture": "flux-1-dev/lora"},
        {"modelspec.architecture": "Flux.1-schnell"},
        {"ss_network_module": "networks.lora_flux"},
        {"modelspec.implementation": "https://github.com/black-forest-labs/flux"},
        {"base_model_name_or_path": "black-forest-labs/FLUX.1-dev"},
    ],
    "SD 3": [
        {"ss_base_model_version": "sd3.5-large"},
        {"modelspec.architecture": "stable-diffusion-3-medium/lora"},
        {"ss_network_module": "networks.lora_sd3"},
    ],
    "FLUX.2": [{"modelspec.architecture": "Flux.2-dev/lora"}, {"ss_base_model_version": "flux2"}],
    "Chroma": [{"modelspec.architecture": "chroma/lora"}],
    "Kolors": [{"base_model_name_or_path": "Kwai-Kolors/Kolors-diffusers"}],
    "PixArt": [{"base_model_name_or_path": "PixArt-alpha/PixArt-XL-2-1024-MS"}],
    "Stable Cascade": [{"modelspec.architecture": "stable-cascade-v1-prior/lora"}],
    "Lumina": [{"modelspec.architecture": "lumina-2/lora"}, {"ss_base_model_version": "lumina2"}],
    "Z-Image": [{"ss_base_model_version": "zimage"}, {"baseModel": "Z-Image-Turbo"}],
    "Qwen-Image": [{"modelspec.architecture": "qwen-image/lora"}],
    "Hunyuan": [{"modelspec.architecture": "hunyuan-video/lora"}],
    "Wan": [{"modelspec.architecture": "wan2.1-t2v-14b/lora"}, {"baseModel": "Wan Video 2.2"}],
    "LTX-Video": [{"base_model": "Lightricks/LTX-Video"}],
    "AuraFlow": [{"base_model": "fal/AuraFlow-v0.3"}, {"baseModel": "Pony V7"}],
}
CASES = [(family, header) for family, headers in SAID.items() for header in headers]


def told(folder: Path, header: Mapping[str, str]) -> Path:
    path = folder / "x.safetensors"
    path.unlink(missing_ok=True)
    save_file(WORDS, path, dict(header))
    return path


@pytest.mark.parametrize(("family", "header"), CASES, ids=[str(header) for _, header in CASES])
def test_a_header_that_states_another_base_is_believed(
    family: str, header: Mapping[str, str], tmp_path: Path
) -> None:
    path = told(tmp_path, header)
    for base, parameters in BASES.items():
        assert base_of(parameters) == base
        if base == family:
            assert open_delta(path, parameters).updates
            continue
        with pytest.raises(FamilyMismatch) as caught:
            open_delta(path, parameters)
        assert f"x.safetensors says that it is made for {family} (" in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"ss_base_model_version": "emoji64", "modelspec.architecture": "emoji64"},
        {"ss_sd_model_name": "animefull-final-pruned.ckpt", "ss_v2": "False"},
        {"ss_sd_model_name": "flux_of_sd15_merges.safetensors"},
        {"ss_network_module": "networks.lora", "modelspec.title": "SDXL look"},
    ],
)
def test_a_header_that_states_no_base_says_nothing(
    header: Mapping[str, str], tmp_path: Path
) -> None:
    for parameters in BASES.values():
        assert open_delta(told(tmp_path, header), parameters).updates


def test_a_models_name_counts_only_where_no_other_field_speaks(tmp_path: Path) -> None:
    header = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "sdxl_look_v2.safetensors"}
    assert open_delta(told(tmp_path, header), BASES["SD 1.x"]).updates


def of(*keys: str, shape: tuple[int, ...] = (4, 4)) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(shape) for key in keys}


def adapter(stem: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.lora_A.weight": torch.zeros(2, width),
        f"{stem}.lora_B.weight": torch.zeros(width, 2),
    }


def kohya(stem: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.lora_down.weight": torch.zeros(2, width),
        f"{stem}.lora_up.weight": torch.zeros(width, 2),
    }


MODEL = "model.diffusion_model."
OTHER_BASES: list[tuple[str, dict[str, torch.Tensor]]] = [
    ("Wan", of("blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight", "head.modulation")),
    ("Wan", adapter("diffusion_model.blocks.3.cross_attn.k_img", 5120)),
    ("Wan", kohya("lora_unet_blocks_11_self_attn_o", 5120)),
    ("Wan", of("condition_embedder.time_proj.weight", "blocks.0.attn1.to_q.weight")),
    ("Z-Image", adapter("diffusion_model.layers.4.attention.to_q", 3840)),
    ("Z-Image", kohya("lora_unet_layers_4_attention_to_out_0", 3840)),
    ("Z-Image", of(f"{MODEL}x_pad_token", f"{MODEL}layers.0.attention.qkv.weight")),
    ("Z-Image", adapter("diffusion_model.layers.4.attention.qkv", 3840)),
    ("Lumina", adapter("diffusion_model.layers.4.attention.qkv", 2304)),
    ("Lumina", of("noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight")),
    ("SD 3", of(f"{MODEL}joint_blocks.0.x_block.attn.qkv.weight")),
    ("SD 3", adapter("transformer.transformer_blocks.0.attn.to_q", 1536)),
    ("HunyuanVideo", of("double_blocks.0.img_attn_qkv.weight", "single_blocks.0.linear1.weight")),
    ("HunyuanVideo", adapter("transformer.context_embedder.token_refiner.proj_in", 8)),
    ("Hunyuan-DiT", of("blocks.0.attn1.Wqkv.weight", "mlp_t5.0.weight")),
    ("Qwen-Image", adapter("transformer_blocks.0.img_mlp.net.0.proj", 3072)),
    ("Qwen-Image", kohya("lora_unet_transformer_blocks_59_txt_mod_1", 3072)),
    ("PixArt", of("caption_projection.linear_1.weight", "adaln_single.linear.weight")),
    ("PixArt", adapter("transformer.transformer_blocks.0.attn1.to_q", 1152)),
    ("Kolors", of("encoder_hid_proj.weight", "down_blocks.0.resnets.0.conv1.weight")),
    ("Stable Cascade", of("clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight")),
    ("Stable Cascade", kohya("lora_unet_down_blocks_0_2_attention_attn_to_q", 2048)),
    ("LTX-Video", of("patchify_proj.weight", "caption_projection.linear_1.weight")),
    ("LTX-Video", adapter("diffusion_model.transformer_blocks.0.attn1.to_q", 2048)),
    (
        "Chroma",
        of("distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_attn.qkv.weight"),
    ),
    ("AuraFlow", of("double_layers.0.attn.w1q.weight", "single_layers.0.attn.w1q.weight")),
    ("AuraFlow", adapter("transformer.joint_transformer_blocks.0.attn.to_q", 3072)),
    ("FLUX.2", of("double_stream_modulation_img.lin.weight", "double_blocks.0.img_mlp.0.weight")),
    ("FLUX", adapter("diffusion_model.single_blocks.7.linear1", 3072)),
    ("FLUX", adapter("transformer.transformer_blocks.0.attn.to_q", 3072)),
    ("HiDream", adapter("diffusion_model.double_stream_blocks.0.block.attn1.to_q", 2560)),
    ("Mochi", of("t5_yproj.weight", "blocks.0.attn.qkv_x.weight")),
    ("Cosmos", of("blocks.0.self_attn.q_proj.weight")),
    ("Stable Video Diffusion", of(f"{MODEL}input_blocks.1.1.time_stack.0.attn1.to_q.weight")),
]


@pytest.mark.parametrize(
    ("family", "tensors"),
    OTHER_BASES,
    ids=[f"{family}: {next(iter(tensors))}" for family, tensors in OTHER_BASES],
)
@pytest.mark.parametrize("base", ["SD 1.x", "FLUX"])
def test_keys_of_other_models_name_their_family(
    base: str, family: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    with pytest.raises(FamilyMismatch, match=rf"^x\.safetensors: .*; it looks made for {family}$"):
        open_delta(path, BASES[base])
