"""What the benchmarks of SD1.5's size share: its true architecture, random weights, random experts.

`small` keeps every kind of layer and takes the width away, so that a laptop tries a script out.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import CheckpointUpdate, LowRankUpdate


class Resident:
    """Components on a device, as `Merger` needs them."""

    family = "sd15"

    def __init__(self, components: dict[str, nn.Module], device: str, dtype: torch.dtype):
        self.components = {
            name: part.to(device, dtype).eval().requires_grad_(False)
            for name, part in components.items()
        }

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters().values())).device

    def parameters(self) -> dict[str, Tensor]:
        return {
            f"{component}.{name}": value.data
            for component, part in self.components.items()
            for name, value in part.named_parameters()
        }

    def modules(self) -> dict[str, nn.Module]:
        return {
            f"{component}.{name}": module
            for component, part in self.components.items()
            for name, module in part.named_modules()
            if name
        }


def be_quiet() -> None:
    """Leave out the peers' warnings and bars, which are longer than the figures."""
    import warnings

    import diffusers
    import transformers

    warnings.filterwarnings("ignore")
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def build_unet(small: bool, device: str) -> nn.Module:
    from diffusers import UNet2DConditionModel

    widths = (32, 64, 64, 64) if small else (320, 640, 1280, 1280)
    with torch.device(device):
        return UNet2DConditionModel(
            sample_size=16 if small else 64,
            block_out_channels=widths,
            cross_attention_dim=64 if small else 768,
            attention_head_dim=8,
            norm_num_groups=8 if small else 32,
        )


def build_text_encoder(small: bool, device: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=1000 if small else 49408,
        hidden_size=64 if small else 768,
        intermediate_size=256 if small else 3072,
        projection_dim=64 if small else 768,
        num_hidden_layers=2 if small else 12,
        num_attention_heads=4 if small else 12,
        max_position_embeddings=77,
    )
    with torch.device(device):
        return CLIPTextModel(config)


def build(small: bool, device: str, dtype: torch.dtype, text: bool = True) -> Resident:
    parts = {"unet": build_unet(small, device)}
    if text:
        parts["text_encoder"] = build_text_encoder(small, device)
    return Resident(parts, device, dtype)


def adapted(model: Resident) -> Iterator[tuple[str, nn.Module]]:
    """Yield what common trainers adapt: every linear layer and 1x1 convolution of attention."""
    for name, module in model.modules().items():
        attention = "transformer_blocks" in name or name.endswith(("proj_in", "proj_out"))
        encoder = name.startswith("text_encoder") and (".self_attn." in name or ".mlp." in name)
        if isinstance(module, nn.Linear | nn.Conv2d) and (
            (name.startswith("unet") and attention) or encoder
        ):
            yield name, module


def factors(
    module: nn.Module, rank: int, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return (out, rank) and (rank, in) on the generator's device."""
    out, width = module.weight.shape[:2]
    where = {"generator": generator, "device": generator.device}
    up = 0.05 * torch.randn(out, rank, **where)
    down = torch.randn(rank, width, **where) / width**0.5
    return up.to(dtype), down.to(dtype)


def random_lora(
    model: Resident, rank: int, seed: int, device: str, dtype: torch.dtype = torch.float16
) -> Delta:
    generator = torch.Generator(device).manual_seed(seed)
    updates = {}
    for name, module in adapted(model):
        up, down = factors(module, rank, generator, dtype)
        updates[f"{name}.weight"] = LowRankUpdate(up, down, 0.5, module.weight.shape)
    return Delta(updates, "lora", Coverage())


def random_checkpoint(
    base: dict[str, Tensor], seed: int, device: str, dtype: torch.dtype = torch.float16
) -> Delta:
    generator = torch.Generator(device).manual_seed(seed)
    updates = {}
    for name, value in base.items():
        noise = torch.randn(value.shape, generator=generator, device=device)
        learnt = (value.to(device).float() + 0.01 * noise).to(dtype)
        updates[name] = CheckpointUpdate(learnt, value)
    return Delta(updates, "checkpoint", Coverage())


def write_kohya(model: Resident, rank: int, seed: int, path: Path) -> None:
    """Write a random LoRA under the names that kohya's trainers use, in float16."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in adapted(model):
        component, _, rest = name.partition(".")
        prefix = "lora_unet_" if component == "unet" else "lora_te_text_model_"
        rest = rest.removeprefix("text_model.")
        key = prefix + rest.replace(".", "_")
        up, down = factors(module, rank, generator, torch.float16)
        kernel = (1, 1) if module.weight.ndim == 4 else ()
        tensors[f"{key}.lora_up.weight"] = up.reshape(*up.shape, *kernel)
        tensors[f"{key}.lora_down.weight"] = down.reshape(*down.shape, *kernel)
        tensors[f"{key}.alpha"] = torch.tensor(rank / 2, dtype=torch.float16)
    save_file(tensors, path)


def reference(base: Tensor, terms: list[tuple[float, object]]) -> Tensor:
    """Return the merged weight in float64, each term computed from its factors in float64."""
    total = base.double()
    for value, update in terms:
        if isinstance(update, LowRankUpdate):
            product = update.up.double() @ update.down.double()
            total = total + value * update.scale * product.reshape(base.shape).to(base.device)
        else:
            total = total + value * (update.value.to(base.device).double() - base.double())
    return total


class Exactness:
    """How far weights are from a float64 reference."""

    def __init__(self) -> None:
        self.error = self.change = 0.0
        self.unequal = self.entries = 0
        self.worst = 0.0

    def add(self, found: Tensor, base: Tensor, wanted: Tensor) -> None:
        self.error += float((found.double() - wanted).square().sum())
        self.change += float((wanted - base.double()).square().sum())
        self.unequal += int((found != wanted.to(found.dtype)).sum())
        self.entries += found.numel()
        scale = float(wanted.abs().max())
        self.worst = max(self.worst, float((found.double() - wanted).abs().max()) / scale)

    def told(self) -> dict[str, float]:
        return {
            # of the update, in the Frobenius norm: rounding to the weights' type included
            "error relative to the update": float(f"{(self.error / self.change) ** 0.5:.3g}"),
            "largest error relative to the weight": float(f"{self.worst:.3g}"),
            "share of weights that are not the nearest": round(self.unequal / self.entries, 6),
        }
