"""What the benchmarks of FLUX's size share: its true architecture, random weights, random LoRAs.

`small` takes the width and most blocks away, so that a laptop tries a script out; `blocks` says how
many of each kind there are, whatever the width.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sd15
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffgraph.families import SamplerConfig, flux_layout
from diffgraph.families.flux_model import Flux

BLOCKS = (19, 38)  # of two streams, of one
SMALL_BLOCKS = (2, 3)
TEXT_TOKENS = 512
BOTH_KINDS = ("transformer_blocks.", "single_transformer_blocks.")


def build(
    small: bool, device: str, dtype: torch.dtype, blocks: tuple[int, int] | None = None
) -> Flux:
    """Return FLUX.1-dev with random weights; its text encoders and autoencoder are tiny."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from transformers import T5Config, T5EncoderModel

    transformer = build_transformer(small, device, dtype, blocks)
    with torch.device(device):
        t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=8, d_ff=8, num_layers=1))
        vae = AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            latent_channels=16,
        )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    clip = sd15.build_text_encoder(small=True, device=device).to(dtype)
    resolution = 64 if small else 512
    return Flux(
        "flux", None, clip, None, t5.to(dtype), transformer, vae.to(dtype), scheduler,
        SamplerConfig(steps=1, guidance=3.5), resolution,
    )  # fmt: skip


def build_transformer(
    small: bool, device: str, dtype: torch.dtype, blocks: tuple[int, int] | None
) -> nn.Module:
    """Return the transformer, whose numbers are drawn on the device in the type they keep."""
    transformer = describe(small, blocks)
    transformer = transformer.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, value in transformer.named_parameters():
            scales = ".norm" in name and value.ndim == 1 and name.endswith(".weight")
            value.normal_(float(scales), 0.02, generator=generator)
    return transformer


def describe(small: bool, blocks: tuple[int, int] | None) -> nn.Module:
    """Return the transformer without its numbers."""
    from diffusers import FluxTransformer2DModel

    double, single = blocks or (SMALL_BLOCKS if small else BLOCKS)
    with torch.device("meta"):
        return FluxTransformer2DModel(
            num_layers=double,
            num_single_layers=single,
            num_attention_heads=2 if small else 24,
            joint_attention_dim=64 if small else 4096,
            pooled_projection_dim=32 if small else 768,
            guidance_embeds=True,
        )


class Described:
    """What writing LoRAs for a model needs of it, without its numbers."""

    def __init__(self, transformer: nn.Module) -> None:
        self.device = torch.device("cpu")
        self.transformer = transformer

    def parameters(self) -> dict[str, Tensor]:
        """Return parameters of no memory by our names."""
        return {f"transformer.{name}": value for name, value in self.transformer.named_parameters()}


def adapted(model: Flux | Described) -> Iterator[tuple[str, nn.Module]]:
    """Yield what trainers adapt: every linear layer of every block, modulations included."""
    for name, module in model.transformer.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(BOTH_KINDS):
            yield name, module


def write_peft(model: Flux | Described, rank: int, seed: int, path: Path) -> None:
    """Write a random LoRA as diffusers saves it, in bfloat16; without an alpha, the rank is one."""
    generator = torch.Generator(model.device).manual_seed(seed)
    tensors = {}
    for name, module in adapted(model):
        up, down = _factors(*module.weight.shape, rank, generator)
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up
    save_file(tensors, path)


def write_kohya(model: Flux | Described, rank: int, seed: int, path: Path) -> None:
    """Write one of the same layers as kohya's trainer does, queries, keys and values fused."""
    generator = torch.Generator(model.device).manual_seed(seed)
    shapes = {name: tuple(value.shape) for name, value in model.parameters().items()}
    adapts = {f"transformer.{name}" for name, _ in adapted(model)}
    tensors = {}
    for theirs, placements in flux_layout.modules(shapes).items():
        ours = [placement.name for placement in placements]
        if not adapts.issuperset(ours):
            continue
        rows = sum(shapes[f"{name}.weight"][0] for name in ours)
        up, down = _factors(rows, shapes[f"{ours[0]}.weight"][1], rank, generator)
        key = "lora_unet_" + theirs.replace(".", "_")
        tensors[f"{key}.lora_up.weight"] = up
        tensors[f"{key}.lora_down.weight"] = down
        tensors[f"{key}.alpha"] = torch.tensor(rank / 2, dtype=torch.bfloat16)
    save_file(tensors, path)


def _factors(
    rows: int, columns: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return (rows, rank) and (rank, columns), bfloat16, on the CPU."""
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    up = 0.02 * torch.randn(rows, rank, **where)
    down = torch.randn(rank, columns, **where) / columns**0.5
    return up.bfloat16().cpu(), down.bfloat16().cpu()


def forward(model: Flux, small: bool) -> Tensor:
    """Return what one step makes of a fixed noise and a fixed text: (1, 16, height, width)."""
    config, device = model.transformer.config, model.device
    generator = torch.Generator(device).manual_seed(1)
    where: dict[str, Any] = {"generator": generator, "device": device, "dtype": model.dtype}
    text = torch.randn(1, 8 if small else TEXT_TOKENS, config.joint_attention_dim, **where)
    pooled = torch.randn(1, config.pooled_projection_dim, **where)
    noise = torch.randn(1, *model.noise_shape, **where)
    return model.denoise(text, pooled, noise, model.sampler)
