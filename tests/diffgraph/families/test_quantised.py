"""Codes that mean nothing without scales are never taken for a base's weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.errors import MissingInput
from diffgraph.families import flux, sd15
from diffgraph.families.quantised import quantised, refuse_quantised
from diffgraph.merging.base_files import open_folder

WEIGHT = "double_blocks.0.img_attn.qkv.weight"
PLAIN = {WEIGHT: "F8_E4M3", "double_blocks.0.img_attn.qkv.bias": "BF16",
         "double_blocks.0.img_attn.norm.query_norm.scale": "F32",
         "double_blocks.0.img_attn.norm.key_norm.scale": "F8_E4M3",
         "vae.post_quant_conv.weight": "F16", "text_encoders.clip_l.logit_scale": "F32",
         "embeddings.position_ids": "I64"}  # fmt: skip


def test_plain_numbers_of_eight_bits_are_weights() -> None:
    assert quantised(PLAIN) is None
    assert quantised(dict.fromkeys(PLAIN, "F16")) is None


@pytest.mark.parametrize(
    "sibling",
    [
        *("double_blocks.0.img_attn.qkv.weight_scale_inv", "double_blocks.0.img_attn.qkv.scale"),
        *("double_blocks.0.img_attn.qkv.scale_weight", "double_blocks.0.img_attn.qkv.input_scale"),
        *("double_blocks.0.img_attn.qkv.scales", "double_blocks.0.img_attn.qkv.anything"),
        *(f"{WEIGHT}.absmax", f"{WEIGHT}.quant_state.bitsandbytes__fp4", f"{WEIGHT}._scale"),
        *("double_blocks.0.img_attn.qkv_scale", "scaled_fp8", "qkv_scales"),
        "double_blocks.0.img_attn.norm.query_norm.weight_scale",
    ],
)
def test_what_stands_beside_eight_bits_and_is_not_known_is_refused(sibling: str) -> None:
    assert quantised({**PLAIN, sibling: "F32"}) == sibling


@pytest.mark.parametrize("code", ["I8", "U8"])
def test_whole_numbers_are_no_weights(code: str) -> None:
    assert quantised({WEIGHT: code}) == WEIGHT


def test_scales_in_another_file_are_seen(tmp_path: Path) -> None:
    eight, scale = torch.zeros(4, 4).to(torch.float8_e4m3fn), torch.ones(1)
    save_file({"to_q.weight": eight}, tmp_path / "model-1.safetensors")
    save_file({"to_q.scale": scale}, tmp_path / "model-2.safetensors")
    refuse_quantised(tmp_path / "model-1.safetensors")
    with pytest.raises(MissingInput, match=r"model-1.*'to_q\.scale'"):
        refuse_quantised(*sorted(tmp_path.iterdir()))


def test_metadata_that_tell_of_codes_are_read(tmp_path: Path) -> None:
    save_file(
        {"x.weight": torch.zeros(2)}, tmp_path / "m.safetensors", {"_quantization_metadata": "{}"}
    )
    with pytest.raises(MissingInput, match="its metadata say"):
        refuse_quantised(tmp_path / "m.safetensors")


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_folder_with_scales_neither_draws_nor_merges(
    family: str, tiny_sd15_folder: Path, tiny_flux_folder: Path, tmp_path: Path
) -> None:
    source, part = {
        "sd15": (tiny_sd15_folder, "unet"),
        "flux": (tiny_flux_folder, "transformer"),
    }[family]
    folder = Path(shutil.copytree(source, tmp_path / "base"))
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(file).items()}
    name = next(name for name in weights if name.endswith("to_q.weight"))
    save_file(weights, file)
    assert open_folder(folder).merged
    save_file(weights | {name.replace("weight", "weight_scale_inv"): torch.ones(1)}, file)
    load = {"sd15": sd15.load, "flux": flux.load}[family]
    for use in (open_folder, lambda place: load("cpu", place=str(place))):
        with pytest.raises(MissingInput, match="is quantised"):
            use(folder)


@pytest.mark.parametrize("family", ["sd15", "flux"])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_a_base_that_holds_nan_draws_nothing(
    family: str, bad: float, tiny_sd15_folder: Path, tiny_flux_folder: Path, tmp_path: Path
) -> None:
    source = {"sd15": tiny_sd15_folder, "flux": tiny_flux_folder}[family]
    folder = Path(shutil.copytree(source, tmp_path / "base"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.weight"].view(-1)[3] = bad
    save_file(weights, file)
    load = {"sd15": sd15.load, "flux": flux.load}[family]
    with pytest.raises(MissingInput, match=r"base/vae: vae\.decoder\.conv_in\.weight holds 1 NaN"):
        load("cpu", torch.float32, place=str(folder))


def test_two_files_that_hold_the_same_weight_are_no_base(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("model", "old")]
    for file in files:
        save_file({"line.weight": torch.zeros(2)}, file)
    with pytest.raises(MissingInput, match=r"old\.safetensors and model\.safetensors both hold"):
        refuse_quantised(*files)
