"""What tests of readers share: a small base, files of any keys, and what is close enough."""

from collections.abc import Mapping
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import read_delta

LINEAR = "unet.mid_block.attentions.0.to_q"
KERNEL = "unet.mid_block.resnets.0.conv1"
POINT = "unet.mid_block.resnets.0.conv_shortcut"
NORM = "unet.mid_block.resnets.0.norm1"
TEXT = "text_encoder.encoder.layers.0.mlp.fc1"


def draw(seed: int, *shape: int, size: float = 1.0) -> torch.Tensor:
    """Return random numbers that float16 and bfloat16 can hold exactly, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(shape, generator=generator)).bfloat16().half().double()


BASE: Mapping[str, torch.Tensor] = {
    f"{LINEAR}.weight": draw(1, 24, 12).float(),
    f"{LINEAR}.bias": draw(2, 24).float(),
    f"{KERNEL}.weight": draw(3, 16, 8, 3, 3).float(),
    f"{KERNEL}.bias": draw(4, 16).float(),
    f"{POINT}.weight": draw(5, 16, 8, 1, 1).float(),
    f"{NORM}.weight": draw(6, 16).float(),
    f"{NORM}.bias": draw(7, 16).float(),
    f"{TEXT}.weight": draw(8, 20, 10).float(),
    f"{TEXT}.bias": draw(9, 20).float(),
}
"""Linear layers and convolutions of a UNet and a text encoder, and a norm."""

STEMS = {
    LINEAR: "lora_unet_mid_block_attentions_0_to_q",
    KERNEL: "lora_unet_mid_block_resnets_0_conv1",
    POINT: "lora_unet_mid_block_resnets_0_conv_shortcut",
    NORM: "lora_unet_mid_block_resnets_0_norm1",
    TEXT: "lora_te_text_model_encoder_layers_0_mlp_fc1",
}
"""Module -> kohya's name."""

RANKS = st.integers(1, 9)
ALPHAS = st.one_of(st.none(), st.floats(0.25, 32, width=16))
any_file = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def keyed(
    module: str, tensors: Mapping[str, torch.Tensor], alpha: float | None = None
) -> dict[str, torch.Tensor]:
    """Return one module's tensors under kohya's keys."""
    found = {f"{STEMS[module]}.{role}": value for role, value in tensors.items()}
    if alpha is not None:
        found[f"{STEMS[module]}.alpha"] = torch.tensor(alpha)
    return found


def read(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor] = BASE,
    dtype: torch.dtype = torch.float32,
) -> Delta:
    """Write tensors, but for alphas, in a type and read them back."""
    path = folder / "expert.safetensors"
    path.unlink(missing_ok=True)  # what was read before is mapped still
    floats = {
        key: value.to(dtype if value.ndim else torch.float32).contiguous()
        if value.is_floating_point()
        else value
        for key, value in tensors.items()
    }
    save_file(floats, path)
    return read_delta(path, base)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within 1e-5 of the whole, relatively; no entry off by more than 1e-5 of the largest."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    error = (found.double() - expected).norm() / expected.norm()
    assert error < tolerance, f"relative error {error:.2e}"
    largest = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * largest)
