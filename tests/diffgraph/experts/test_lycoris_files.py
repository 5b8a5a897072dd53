"""LyCORIS's own modules as the oracle: what they write, and what they compute from it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffgraph.experts.reading import read_delta

LINEAR = "unet.mid_block.attentions.0.to_q"
KERNEL = "unet.mid_block.resnets.0.conv1"


@pytest.fixture(scope="module")
def layers() -> dict[str, nn.Module]:
    return {LINEAR: nn.Linear(32, 48), KERNEL: nn.Conv2d(16, 32, 3, padding=1)}


CASES = {
    "locon": ("LoConModule", {}),
    "locon Tucker": ("LoConModule", {"use_tucker": True}),
    "loha": ("LohaModule", {}),
    "loha Tucker": ("LohaModule", {"use_tucker": True}),
    "lokr": ("LokrModule", {"factor": 4}),
    "lokr both low-rank": ("LokrModule", {"factor": 8, "decompose_both": True}),
    "lokr whole": ("LokrModule", {"factor": 4, "full_matrix": True}),
    "lokr Tucker": ("LokrModule", {"factor": 4, "use_tucker": True}),
    "dora by rows": ("LoConModule", {"weight_decompose": True}),
    "dora by columns": ("LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    "dora of loha": ("LohaModule", {"weight_decompose": True}),
    "glora": ("GLoRAModule", {}),
    "ia3 on rows": ("IA3Module", {}),
    "ia3 on columns": ("IA3Module", {"train_on_input": True}),
    "oft": ("DiagOFTModule", {"lora_dim": 4}),
    "oft held back": ("DiagOFTModule", {"lora_dim": 4, "constraint": 0.01}),
    "oft rescaled": ("DiagOFTModule", {"lora_dim": 8, "rescaled": True}),
    "boft": ("ButterflyOFTModule", {"lora_dim": 8}),
    "boft rescaled and held back": (
        "ButterflyOFTModule",
        {"lora_dim": 8, "constraint": 0.02, "rescaled": True},
    ),
}


@pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", [LINEAR, KERNEL])
def test_lycoris_and_we_agree(
    name: str, kind: str, options: dict[str, Any], layers: dict[str, nn.Module], tmp_path: Path
) -> None:
    import lycoris.modules as modules

    layer = layers[name]
    stem = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
    # alpha = rank: LyCORIS's difference applies a scale other than 1 twice
    settings = {"lora_dim": 3, "alpha": 3, **options}
    module = getattr(modules, kind)(stem, layer, **settings)
    generator = torch.Generator().manual_seed(3)
    for key, parameter in module.named_parameters():
        noise = 0.2 * torch.randn(parameter.shape, generator=generator)
        near_one = "dora" in key or "rescale" in key
        parameter.data = parameter.data * (1 + noise) if near_one else noise
    module.eval()
    delta = read_back(tensors_of(module, stem, tmp_path), layers)
    merged, _ = module.get_merged_weight(multiplier=1.0, shape=layer.weight.shape)
    expected = (merged - layer.weight).detach()
    found = delta.updates[f"{name}.weight"].dense()
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert delta.coverage.unknown == ()


def tensors_of(module: Any, stem: str, folder: Path) -> Path:
    """Write what LyCORIS saves of a module, and return the file."""
    state = module.custom_state_dict() if hasattr(module, "custom_state_dict") else None
    state = {f"{stem}.{key}": value for key, value in (state or module.state_dict()).items()}
    save_file(
        {key: value.clone().contiguous() for key, value in state.items()}, folder / "x.safetensors"
    )
    return folder / "x.safetensors"


def read_back(path: Path, layers: dict[str, nn.Module]) -> Any:
    parameters = {
        f"{owner}.{kind}": value.detach()
        for owner, layer in layers.items()
        for kind, value in layer.named_parameters()
    }
    return read_delta(path, parameters)


@pytest.mark.parametrize("name", [LINEAR, KERNEL])
def test_full_differences_are_read(name: str, layers: dict[str, nn.Module], tmp_path: Path) -> None:
    import lycoris.modules as modules

    stem = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
    module = modules.FullModule(stem, copy.deepcopy(layers[name]))
    module.apply_to()  # it stores differences once it stands for the layer
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    delta = read_back(tensors_of(module, stem, tmp_path), layers)
    merged = dict(zip(("weight", "bias"), module.get_merged_weight(1), strict=True))
    for kind, base in layers[name].named_parameters():
        found = delta.updates[f"{name}.{kind}"].dense()
        torch.testing.assert_close(found, (merged[kind] - base).detach())
    assert delta.format == "full"


@pytest.mark.parametrize("kind", [nn.GroupNorm, nn.LayerNorm])
def test_norms_are_read(kind: Any, tmp_path: Path) -> None:
    import lycoris.modules as modules

    layer = nn.GroupNorm(4, 16) if kind is nn.GroupNorm else nn.LayerNorm(16)
    name = "unet.mid_block.resnets.0.norm1"
    module = modules.NormModule("lora_unet_mid_block_resnets_0_norm1", layer)
    for parameter in module.parameters():
        parameter.data = torch.linspace(-1, 1, 16)
    path = tensors_of(module, "lora_unet_mid_block_resnets_0_norm1", tmp_path)
    delta = read_back(path, {name: layer})
    weight, bias = module.get_merged_weight(1.0)
    torch.testing.assert_close(delta.updates[f"{name}.weight"].dense(), (weight - 1).detach())
    torch.testing.assert_close(delta.updates[f"{name}.bias"].dense(), bias.detach())
    assert delta.format == "norm"


def test_a_scale_is_applied_once(layers: dict[str, nn.Module], tmp_path: Path) -> None:
    """LyCORIS's get_weight has the scale, its get_diff_weight has it twice: the file means once."""
    import lycoris.modules as modules

    stem = "lora_unet_mid_block_attentions_0_to_q"
    module = modules.LohaModule(stem, layers[LINEAR], lora_dim=4, alpha=1)
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    module.eval()
    save_file(
        {f"{stem}.{key}": value.contiguous() for key, value in module.custom_state_dict().items()},
        tmp_path / "x.safetensors",
    )
    parameters = {f"{LINEAR}.weight": layers[LINEAR].weight.detach()}
    delta = read_delta(tmp_path / "x.safetensors", parameters)
    expected = module.get_weight(layers[LINEAR].weight.shape).detach()
    torch.testing.assert_close(delta.updates[f"{LINEAR}.weight"].dense(), expected)
