"""Other tools' names for our parameters, against the converters that diffusers ships."""

from typing import Any

import pytest
import torch

from diffgraph.experts.naming_index import Placement, key_index
from diffgraph.experts.naming_ldm import ldm

SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


@pytest.fixture(scope="module")
def sd15() -> Any:
    """Stable Diffusion 1.5's UNet without its numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**SD15)


def single_file_names(unet: Any) -> dict[str, str]:
    """Return our name -> the single-file name, for the whole UNet."""
    names = [f"unet.{name}" for name, _ in unet.named_parameters()]
    vocabulary = ldm(names)
    return {name: next(iter(vocabulary(name))) for name in names}


def assert_diffusers_reads_them_back(unet: Any) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    names = single_file_names(unet)
    assert len(set(names.values())) == len(names)
    marked = {theirs: torch.tensor(index) for index, theirs in enumerate(names.values())}
    converted = convert_ldm_unet_checkpoint(marked, dict(unet.config))
    ours = list(names)
    assert {f"unet.{key}": ours[int(value)] for key, value in converted.items()} == {
        name: name for name in ours
    }


def test_single_file_names_of_sd15_are_diffusers_own(sd15: Any) -> None:
    assert_diffusers_reads_them_back(sd15)


def test_single_file_names_of_emoji64_are_diffusers_own(tiny_model: Any) -> None:
    assert_diffusers_reads_them_back(tiny_model.unet)


def test_names_that_real_files_hold(sd15: Any) -> None:
    """Keys as they stand in files from hubs."""
    parameters = {f"unet.{name}": value for name, value in sd15.named_parameters()}
    for layer in range(12):
        name = f"text_encoder.encoder.layers.{layer}.self_attn.q_proj.weight"
        parameters[name] = torch.empty(768, 768, device="meta")
    modules = key_index(parameters).modules
    attention = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert {theirs: modules[theirs][0].name for theirs in REAL} == {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": f"{attention}.to_q",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": f"{attention}.to_q",
        "lora_te_text_model_encoder_layers_11_self_attn_q_proj": (
            "text_encoder.encoder.layers.11.self_attn.q_proj"
        ),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": (
            f"{attention}.to_out.0"
        ),
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (
            f"{attention}.to_out.0"
        ),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora": (
            "text_encoder.encoder.layers.1.self_attn.q_proj"
        ),
        "lora_unet_mid_block_resnets_1_time_emb_proj": "unet.mid_block.resnets.1.time_emb_proj",
    }


REAL = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
    "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora",
    "lora_unet_mid_block_resnets_1_time_emb_proj",
}


def test_a_name_that_could_mean_two_modules_means_none() -> None:
    # kohya writes both as block_0_a_b
    parameters = {f"unet.{path}.weight": torch.empty(1) for path in ("block.0_a.b", "block.0.a_b")}
    modules = key_index(parameters).modules
    assert "lora_unet_block_0_a_b" not in modules
    assert modules["unet.block.0_a.b"] == (Placement("unet.block.0_a.b"),)
    assert modules["unet.block.0.a_b"] == (Placement("unet.block.0.a_b"),)


def test_a_component_that_nobody_else_knows_keeps_its_own_names() -> None:
    names = key_index({"prior.layer.weight": torch.empty(1)})
    assert names.parameters["prior.layer.weight"] == (Placement("prior.layer.weight"),)
    assert names.modules["prior.layer"] == (Placement("prior.layer"),)


def test_names_are_made_once_a_model() -> None:
    first = key_index({"unet.layer.weight": torch.empty(2, 3)})
    assert key_index({"unet.layer.weight": torch.ones(2, 3)}) is first
    assert key_index({"unet.layer.weight": torch.empty(3, 2)}) is not first
