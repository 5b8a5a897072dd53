"""PEFT's own layers as the oracle: what its other methods save, and what they merge."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from diffgraph.experts.reading import read_delta


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(12, 24)
        self.conv = nn.Conv2d(8, 16, 3)
        self.square = nn.Linear(12, 12)


def config_of(kind: str, options: dict[str, Any]) -> Any:
    import peft

    return getattr(peft, kind)(**options)


STEM = "base_model.model.line"
LINE = {"unet.line.weight": torch.ones(24, 12)}
DOWN, UP = torch.ones(2, 12), torch.ones(24, 2)
ALL = ["line", "conv", "square"]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ia3": ("IA3Config", {"target_modules": ALL, "feedforward_modules": []}, {}),
    "ia3 on inputs": ("IA3Config", {"target_modules": ALL, "feedforward_modules": ALL}, {}),
    "oft": ("OFTConfig", {"target_modules": ALL, "r": 0, "oft_block_size": 4}, {}),
    "oft, exact": (
        "OFTConfig",
        {"target_modules": ALL, "r": 0, "oft_block_size": 4, "use_cayley_neumann": False},
        {"use_cayley_neumann": False},
    ),
    "oft, two terms": (
        "OFTConfig",
        {"target_modules": ALL, "r": 0, "oft_block_size": 4, "num_cayley_neumann_terms": 2},
        {"num_cayley_neumann_terms": 2},
    ),
    "oft, one block for all": (
        "OFTConfig",
        {"target_modules": ALL, "r": 0, "oft_block_size": 4, "block_share": True},
        {},
    ),
    "oft, constrained": (
        "OFTConfig",
        {"target_modules": ALL, "r": 0, "oft_block_size": 4, "coft": True, "eps": 0.1},
        {"coft": True, "eps": 0.1},
    ),
    "lora with biases": (
        "LoraConfig",
        {"target_modules": ALL, "r": 3, "lora_alpha": 6, "lora_bias": True},
        {"lora_alpha": 6},
    ),
    "lora rank-stabilised": (
        "LoraConfig",
        {"target_modules": ALL, "r": 4, "lora_alpha": 6, "use_rslora": True},
        {"lora_alpha": 6, "use_rslora": True},
    ),
}


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # it takes biases for broken factors
@pytest.mark.parametrize(("kind", "options", "stated"), CASES.values(), ids=CASES.keys())
def test_peft_and_we_agree(
    kind: str, options: dict[str, Any], stated: dict[str, Any], tmp_path: Path
) -> None:
    import peft

    generator = torch.Generator().manual_seed(0)
    net = Net()
    base = {f"unet.{name}": value.detach().clone() for name, value in net.named_parameters()}
    model = peft.get_peft_model(copy.deepcopy(net), config_of(kind, options))
    for name, value in model.named_parameters():
        if "lora_" in name or "ia3_" in name or "oft_" in name:
            noise = torch.randn(value.shape, generator=generator)
            value.data = 0.1 * noise + ("ia3_" in name)
    tensors = {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}
    metadata = {"lora_adapter_metadata": json.dumps(stated)} if stated else None
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path, metadata)
    merged = model.merge_and_unload()
    expected = {
        f"unet.{name}": value.detach() - base[f"unet.{name}"]
        for name, value in merged.named_parameters()
    }
    expected = {name: value for name, value in expected.items() if value.any()}
    assert "unet.conv.weight" in expected
    delta = read_delta(path, base)
    assert set(delta.updates) == set(expected)
    for name, value in expected.items():
        error = (delta.updates[name].dense() - value).norm() / value.norm()
        assert error < 1e-5, f"{name}: relative error {error:.2e}"
    assert delta.coverage.unknown == ()


def test_a_configuration_beside_the_file_is_read(tmp_path: Path) -> None:
    """As PEFT itself saves an adapter: the alpha is not in the file."""
    import peft

    net = Net()
    base = {f"unet.{name}": value.detach().clone() for name, value in net.named_parameters()}
    config = config_of("LoraConfig", {"target_modules": ["line"], "r": 4, "lora_alpha": 2})
    model = peft.get_peft_model(copy.deepcopy(net), config)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.ones(value.shape)
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().line.weight.detach()
    delta = read_delta(tmp_path / "adapter_model.safetensors", base)
    found = delta.updates["unet.line.weight"].dense()
    torch.testing.assert_close(found, merged - base["unet.line.weight"], rtol=1e-4, atol=1e-6)
    assert "no alpha is stated: the rank is taken" not in delta.coverage.evidence
    (tmp_path / "adapter_config.json").unlink()
    delta = read_delta(tmp_path / "adapter_model.safetensors", base)
    assert delta.coverage.evidence == ("no alpha is stated: the rank is taken",)


def test_rows_and_columns_of_a_square_convolution_cannot_be_told_apart(tmp_path: Path) -> None:
    base = {"unet.conv.weight": torch.zeros(4, 4, 3, 3)}
    path = tmp_path / "x.safetensors"
    save_file({"base_model.model.conv.ia3_l": torch.ones(1, 4, 1, 1)}, path)
    with pytest.raises(FamilyMismatch, match="cannot tell"):
        read_delta(path, base)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "its configuration is not JSON"),
        ("[1]", "its configuration is not an object"),
        ('{"lora_alpha": "much"}', "alpha .* is not a number"),
        ('{"lora_alpha": NaN}', "'lora_alpha' is no finite number"),
        ('{"lora_alpha": 4, "lora_alpha": 400}', "'lora_alpha' is there twice"),
        ("[" * 100_000, "its configuration is not JSON"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    settings: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(settings)
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"{STEM}.lora_A.weight": DOWN, f"{STEM}.lora_B.weight": UP}, path)
    with pytest.raises(DamagedFile, match=f"adapter_model.*{says}"):
        read_delta(path, LINE)


@pytest.mark.parametrize("kind", ["huge", "pipe", "folder", "nowhere"])
def test_no_adapter_is_read_without_a_configuration_that_is_there(
    kind: str, tmp_path: Path
) -> None:
    stated = tmp_path / "adapter_config.json"
    if kind == "huge":
        stated.write_text('{"lora_alpha": 8}' + " " * (1 << 21))
    elif kind == "pipe":
        os.mkfifo(stated)
    elif kind == "folder":
        stated.mkdir()
    else:
        stated.symlink_to(tmp_path / "gone.json")
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"{STEM}.lora_A.weight": DOWN, f"{STEM}.lora_B.weight": UP}, path)
    with pytest.raises(DamagedFile, match=r"adapter_model.*configuration: 'adapter_config.json'"):
        read_delta(path, LINE)


@pytest.mark.parametrize("terms", [0, -1, 10**9, 2.5, "many"])
def test_a_series_of_absurd_length_is_refused(terms: Any, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    stated = {"lora_adapter_metadata": json.dumps({"num_cayley_neumann_terms": terms})}
    save_file({f"{STEM}.oft_R.weight": torch.zeros(3, 6)}, path, stated)
    with pytest.raises(UnknownFormat, match="num_cayley_neumann_terms"):
        read_delta(path, LINE)
