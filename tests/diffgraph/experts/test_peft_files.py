"""Adapters that peft made, in every layout the writers know, read back: peft is the oracle."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import read_delta
from recipes.emoji64.writing import write_adapter

ATTENTION = r".*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
CONVOLUTIONS = r"conv_in|.*\.(conv1|conv_shortcut|proj_in)"
NAME = "default"
WHOLE = 64  # a rank at which LoKr keeps both factors whole


def config_of(method: str, rank: int, alpha: int, targets: str, **more: Any) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    common: dict[str, Any] = {"r": rank, "target_modules": targets, **more}
    if method == "loha":
        return LoHaConfig(**common, alpha=alpha)
    if method == "lokr":
        return LoKrConfig(**common, alpha=alpha)
    return LoraConfig(**common, lora_alpha=alpha, use_dora=method == "dora")


def adapted(model: Any, config: Any, seed: int = 0) -> Any:
    """Return a copy of the UNet with an adapter of random numbers."""
    unet = copy.deepcopy(model.unet)
    unet.add_adapter(config, NAME)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if f".{NAME}" not in name:
            continue
        if "magnitude" in name:  # near the norms it started from
            parameter.data *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
        else:
            size = 0.05 if config.peft_type == "LORA" else 0.2
            parameter.data = size * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data.half().float()  # what a file can hold
    return unet


def merged_difference(unet: Any) -> dict[str, torch.Tensor]:
    """Return what peft's own merge adds to each weight."""
    merged = copy.deepcopy(unet)
    changes = {}
    for name, module in merged.named_modules():
        if hasattr(module, "get_base_layer") and hasattr(module, "merge"):
            before = module.get_base_layer().weight.detach().clone()
            module.merge(adapter_names=[NAME])
            changes[f"unet.{name}.weight"] = module.get_base_layer().weight.detach() - before
    assert changes
    return changes


def assert_same(delta: Delta, expected: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    assert set(delta.updates) == set(expected)
    for name, value in expected.items():
        found = delta.updates[name].dense()
        assert found.shape == value.shape
        error = (found - value).norm() / value.norm()
        assert error < tolerance, f"{name}: relative error {error:.2e}"


CASES = {
    "lora linear kohya": ("lora", "kohya", 4, 4, ATTENTION, {}),
    "lora alpha below rank": ("lora", "kohya", 6, 3, ATTENTION, {}),
    "locon": ("locon", "lycoris", 4, 8, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "lora diffusers": ("lora", "diffusers", 4, 2, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "lora peft": ("lora", "peft", 8, 4, ATTENTION, {}),
    "lora rank-stabilised": ("lora", "peft", 4, 2, ATTENTION, {"use_rslora": True}),
    "lora alphas by module": (
        "lora",
        "diffusers",
        4,
        4,
        ATTENTION,
        {"alpha_pattern": {"attn2.to_q": 1}, "rank_pattern": {"attn1.to_v": 2}},
    ),
    "dora kohya": ("dora", "kohya", 4, 4, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "dora diffusers": ("dora", "diffusers", 4, 2, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "loha": ("loha", "lycoris", 3, 6, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "loha Tucker": ("loha", "lycoris", 3, 2, CONVOLUTIONS, {"use_effective_conv2d": True}),
    "lokr": ("lokr", "lycoris", 2, 4, f"({ATTENTION})|({CONVOLUTIONS})", {}),
    "lokr both low-rank": ("lokr", "lycoris", 1, 3, ATTENTION, {"decompose_both": True}),
    "lokr whole": ("lokr", "lycoris", WHOLE, 16, ATTENTION, {}),
    "lokr Tucker": ("lokr", "lycoris", 2, 2, CONVOLUTIONS, {"use_effective_conv2d": True}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_peft_and_we_agree_on_the_delta(case: Any, tiny_model: Any, tmp_path: Path) -> None:
    method, layout, rank, alpha, targets, more = case
    unet = adapted(tiny_model, config_of(method, rank, alpha, targets, **more))
    path = tmp_path / "expert.safetensors"
    write_adapter(unet, NAME, method, layout, path, alpha)
    delta = read_delta(path, tiny_model.parameters())
    # a whole LoKr has its scale folded into fp16 factors; a DoRA multiplies the weight itself
    tolerance = {"dora": 2e-4, "lokr": 6e-4 if rank == WHOLE else 2e-5}.get(method, 2e-5)
    assert_same(delta, merged_difference(unet), tolerance)
    assert delta.coverage.share == 1.0
    assert "ss_base_model_version=emoji64" in delta.coverage.evidence


@pytest.mark.parametrize("strength", [0.6, 0.8, 1.25])
@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_a_file_has_its_effect_at_the_strength_it_was_written_for(
    method: str, strength: float, tiny_model: Any, tmp_path: Path
) -> None:
    unet = adapted(tiny_model, config_of(method, 4, 2, f"({ATTENTION})|({CONVOLUTIONS})"))
    path = tmp_path / "expert.safetensors"
    write_adapter(unet, NAME, method, "lycoris", path, 2, strength)
    delta = read_delta(path, tiny_model.parameters())
    for name, value in merged_difference(unet).items():
        found = strength * delta.updates[name].dense()
        assert (found - value).norm() / value.norm() < 2e-3  # fp16 where rows were scaled


def test_a_strange_method_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    unet = adapted(tiny_model, config_of("lora", 2, 2, ATTENTION))
    with pytest.raises(ValueError, match="is lora, not loha"):
        write_adapter(unet, NAME, "loha", "lycoris", tmp_path / "x.safetensors", 2)
    assert not list(tmp_path.iterdir())
