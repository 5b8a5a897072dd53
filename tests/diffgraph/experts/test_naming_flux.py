"""FLUX's fused names against the converters that diffusers ships, row by row.

Every row of a fused tensor holds its own number, so a swapped or shifted row shows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgraph.experts.naming_index import key_index

HIDDEN, MLP = 3072, 12288
QKV = 3 * HIDDEN
DOUBLE = {
    f"{side}_{name}": rows
    for side in ("img", "txt")
    for name, rows in {
        "mod.lin": 6 * HIDDEN,
        "attn.qkv": QKV,
        "attn.proj": HIDDEN,
        "mlp.0": MLP,
        "mlp.2": HIDDEN,
    }.items()
}
SINGLE = {"modulation.lin": QKV, "linear1": QKV + MLP, "linear2": HIDDEN}
OUTER = {
    "img_in": HIDDEN,
    "txt_in": HIDDEN,
    "time_in.in_layer": HIDDEN,
    "time_in.out_layer": HIDDEN,
    "vector_in.in_layer": HIDDEN,
    "vector_in.out_layer": HIDDEN,
    "guidance_in.in_layer": HIDDEN,
    "guidance_in.out_layer": HIDDEN,
    "final_layer.linear": 64,
    "final_layer.adaLN_modulation.1": 2 * HIDDEN,
}


@pytest.fixture(scope="module")
def parameters() -> dict[str, Tensor]:
    """The transformer of FLUX.1 dev without its numbers."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
    return {f"transformer.{name}": value for name, value in transformer.named_parameters()}


def modules() -> Iterator[tuple[str, int]]:
    """Yield the makers' modules with their rows."""
    yield from OUTER.items()
    for block in range(19):
        yield from ((f"double_blocks.{block}.{name}", rows) for name, rows in DOUBLE.items())
    for block in range(38):
        yield from ((f"single_blocks.{block}.{name}", rows) for name, rows in SINGLE.items())


class Rows:
    """Hands out tensors of one column whose rows are numbered through."""

    def __init__(self) -> None:
        self.used = 0

    def __call__(self, rows: int, *rest: int) -> Tensor:
        self.used += rows
        numbers = torch.arange(self.used - rows, self.used, dtype=torch.int32)
        return numbers.reshape(rows, *rest)


def placed(found: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the names say of these tensors, by our names."""
    ours: dict[str, Tensor] = {}
    for key, value in given.items():
        for placement in found[key]:
            assert placement.name not in ours
            ours[placement.name] = placement.take(value)
    return ours


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name].float(), value.float()), name


def test_a_whole_model_is_split_as_diffusers_does(parameters: dict[str, Tensor]) -> None:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    rows, given = Rows(), {}
    for name, count in modules():
        given[f"{name}.weight"] = rows(count, 1)
        given[f"{name}.bias"] = rows(count)
    for block in range(19):
        for side in ("img", "txt"):
            for kind in ("query", "key"):
                given[f"double_blocks.{block}.{side}_attn.norm.{kind}_norm.scale"] = rows(128)
    for block in range(38):
        for kind in ("query", "key"):
            given[f"single_blocks.{block}.norm.{kind}_norm.scale"] = rows(128)
    assert len(given) == 780
    ours = placed(key_index(parameters).parameters, given)
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(given))
    assert_same(ours, {f"transformer.{name}": value for name, value in theirs.items()})
    assert set(ours) == set(parameters)


def test_kohyas_lora_is_split_as_diffusers_does(parameters: dict[str, Tensor]) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    rows, given, file = Rows(), {}, {}
    for name, count in modules():
        key = f"lora_unet_{name.replace('.', '_')}"
        given[key] = rows(count, 1)
        file[f"{key}.lora_up.weight"] = given[key]
        file[f"{key}.lora_down.weight"] = torch.ones(1, 1)
    converted = _convert_kohya_flux_lora_to_diffusers(file)
    theirs = {
        # diffusers leaves the component off what it swaps
        f"transformer.{name.removeprefix('transformer.').removesuffix('.lora_B.weight')}": value
        for name, value in converted.items()
        if name.endswith(".lora_B.weight")
    }
    assert len(given) == 304 + len(OUTER)
    assert_same(placed(key_index(parameters).modules, given), theirs)


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_lora_is_split_as_diffusers_does(parameters: dict[str, Tensor], prefix: str) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    rows, given, file = Rows(), {}, {}
    for kind, count, adapters in (
        ("double", 19, {"qkv_lora1": QKV, "qkv_lora2": QKV, "proj_lora1": HIDDEN}),
        ("double", 19, {"proj_lora2": HIDDEN}),
        ("single", 38, {"qkv_lora": QKV, "proj_lora": HIDDEN}),
    ):
        for block in range(count):
            for adapter, height in adapters.items():
                key = f"{prefix}{kind}_blocks.{block}.processor.{adapter}"
                given[key] = rows(height, 1)
                file[f"{key}.up.weight"] = given[key]
                file[f"{key}.down.weight"] = torch.ones(1, 1)
    theirs = {
        name.removesuffix(".lora_B.weight"): value
        for name, value in _convert_xlabs_flux_lora_to_diffusers(file).items()
        if name.endswith(".lora_B.weight")
    }
    assert_same(placed(key_index(parameters).modules, given), theirs)


def test_what_is_taken_can_be_put_back(parameters: dict[str, Tensor]) -> None:
    rows, found = Rows(), key_index(parameters).modules
    for key in ("double_blocks.0.txt_attn.qkv", "single_blocks.5.linear1", *OUTER):
        height = dict(modules())[key]
        value, again = rows(height, 1), torch.full((height, 1), -1, dtype=torch.int32)
        for placement in found[key]:
            placement.put(again, placement.take(value))
        assert torch.equal(again, value)


def test_schnell_has_no_guidance_to_name() -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    names = key_index(
        {f"transformer.{name}": value for name, value in transformer.named_parameters()}
    )
    assert "vector_in.in_layer.weight" in names.parameters
    assert "guidance_in.in_layer.weight" not in names.parameters
    assert "double_blocks.1.img_attn.qkv.weight" not in names.parameters
