"""Writes a model of diffusers' layout as the first Stable Diffusion code kept them: in one file."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.experts.naming_ldm import ldm

VAE_BLOCKS = 4


def ldm_vae(name: str) -> str:
    """Return what single-file checkpoints call a parameter of the autoencoder."""
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    for block in range(VAE_BLOCKS):
        up = f"up.{VAE_BLOCKS - 1 - block}"
        name = name.replace(f"up_blocks.{block}.resnets.", f"{up}.block.")
        name = name.replace(f"up_blocks.{block}.upsamplers.0", f"{up}.upsample")
    for ours, theirs in (
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(ours, theirs)
    return f"first_stage_model.{name}"


def write_single_file(
    folder: Path, file: Path, text: str = "text_model.", vae: bool = True
) -> None:
    """Write a diffusers folder as a single-file checkpoint, its autoencoder's numbers halved."""
    weights: dict[str, Tensor] = {}
    for component, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        stored = load_file(folder / component / f"{name}.safetensors")
        weights |= {f"{component}.{key}": value for key, value in stored.items()}
    weights = {
        key.replace("text_encoder.text_model.", "text_encoder."): weights[key] for key in weights
    }
    vocabulary = ldm(list(weights))
    written = {next(iter(vocabulary(name))): value for name, value in weights.items()}
    written = {
        key.replace("transformer.text_model.", f"transformer.{text}"): value
        for key, value in written.items()
    }
    written[f"cond_stage_model.transformer.{text}embeddings.position_ids"] = torch.arange(77)[None]
    written["model_ema.decay"] = torch.ones(())
    if vae:
        stored = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        for key, value in stored.items():
            # attention was a convolution in the first code
            is_matrix = "attentions" in key and value.ndim == 2
            written[ldm_vae(key)] = (value[..., None, None] if is_matrix else value) / 2
    save_file(written, file)
