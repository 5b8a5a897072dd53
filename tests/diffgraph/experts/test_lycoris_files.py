"""LyCORIS's own modules as the oracle: what they write, and what they compute from it."""

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
    module = getattr(modules, kind)(stem, layer, lora_dim=3, alpha=3, **options)
    generator = torch.Generator().manual_seed(3)
    for key, parameter in module.named_parameters():
        noise = 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data * (1 + noise) if "dora" in key else noise
    module.eval()
    tensors = {f"{stem}.{key}": value.clone() for key, value in module.custom_state_dict().items()}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, tmp_path / "x.safetensors"
    )
    parameters = {f"{owner}.weight": layer.weight.detach() for owner, layer in layers.items()}
    delta = read_delta(tmp_path / "x.safetensors", parameters)
    merged, _ = module.get_merged_weight(multiplier=1.0, shape=layer.weight.shape)
    expected = (merged - layer.weight).detach()
    found = delta.updates[f"{name}.weight"].dense()
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert delta.coverage.unknown == ()


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
