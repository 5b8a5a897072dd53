"""FLUX's transformer in a single file as the base of a merge."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.reading import open_delta
from diffgraph.families import flux, get_family
from diffgraph.merging.base_files import BaseFiles, open_base, open_file, open_folder
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.to_file import FileMerge
from diffgraph.merging.to_folder import write_folder

QKV = "double_blocks.1.img_attn.qkv"
EIGHT_BITS = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def makers(tiny_flux_folder: Path) -> dict[str, Tensor]:
    """The transformer in its makers' layout, by the writer of files, which has its own tests."""
    base = open_folder(tiny_flux_folder)
    merge = FileMerge(MergePlan(family="flux"), {}, base)
    found = {}
    for key, slot in single_file(base).items():
        found[key] = merge.whole(slot)
    return found


def written(folder: Path, tensors: dict[str, Tensor], described: Path) -> Path:
    """Write a base, with the folder that describes it beside it."""
    file = folder / "flux.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    file.with_suffix("").symlink_to(described)
    return file


def transformer_of(base: BaseFiles) -> dict[str, Tensor]:
    return {name: value for name, value in base.parameters.items() if name.startswith("transf")}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_makers_layout(
    tmp_path: Path, tiny_flux_folder: Path, makers: dict[str, Tensor], prefix: str
) -> None:
    others = {"vae.decoder.conv_in.weight": torch.zeros(3, 3)}  # as ComfyUI puts them all together
    theirs = {prefix + key: value for key, value in makers.items()} | others
    file = written(tmp_path, theirs, tiny_flux_folder)
    base, folder = open_file(file, file.with_suffix("")), open_folder(tiny_flux_folder)
    assert set(base.parameters) == set(folder.parameters)
    for name, value in base.parameters.items():
        assert torch.equal(value, folder.parameters[name].float()), name


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_diffusers_names(tmp_path: Path, tiny_flux_folder: Path, prefix: str) -> None:
    folder = open_folder(tiny_flux_folder)
    ours = transformer_of(folder)
    named = {prefix + name.removeprefix("transformer."): value for name, value in ours.items()}
    file = written(tmp_path, named, tiny_flux_folder)
    found = transformer_of(open_file(file, file.with_suffix("")))
    assert set(found) == set(ours)
    assert all(torch.equal(found[name], value) for name, value in ours.items())


@pytest.mark.parametrize("rule", ["linear", "ties", "dare"])
def test_a_merge_from_eight_bits(
    tmp_path: Path,
    tiny_flux_folder: Path,
    makers: dict[str, Tensor],
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eight = {key: value.to(EIGHT_BITS) for key, value in makers.items()}
    file = written(tmp_path, eight, tiny_flux_folder)
    monkeypatch.setenv("DIFFGRAPH_BASES", f'{{"flux": "{file}"}}')
    base = open_base(get_family("flux"))
    rows, columns = makers[f"{QKV}.weight"].shape
    up, down = torch.randn(rows, 4), torch.randn(4, columns)
    key = f"lora_unet_{QKV.replace('.', '_')}"
    lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    save_file(lora, tmp_path / "lora.safetensors")
    expert = PlannedExpert(ref="hub:lora@1", kind="peft", coefficient=0.5)
    parameters = {"density": 1.0} if rule != "linear" else {}
    plan = MergePlan(family="flux", experts=(expert,), rule=rule, parameters=parameters)
    deltas = {expert.ref: open_delta(tmp_path / "lora.safetensors", base.parameters)}
    out = tmp_path / "out.safetensors"
    FileMerge(plan, deltas, base).write(out, single_file(base), torch.float32, {})
    expected = {key: value.double() for key, value in eight.items()}
    expected[f"{QKV}.weight"] += 0.5 * up.double() @ down.double()
    found = load_file(out)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-6, atol=1e-6)


def test_a_folder_of_a_single_file(
    tmp_path: Path, tiny_flux_folder: Path, makers: dict[str, Tensor]
) -> None:
    file = written(tmp_path, makers, tiny_flux_folder)
    base = open_file(file, file.with_suffix(""))
    merge = FileMerge(MergePlan(family="flux"), {}, base)
    write_folder(merge, tmp_path / "folder", torch.float32, {})
    model: Any = flux.load("cpu", torch.float32, place=str(tmp_path / "folder"))
    for name, value in model.parameters().items():
        assert torch.equal(value, base.parameters[name].float()), name


def test_a_folder_needs_all_components(
    tmp_path: Path, tiny_flux_folder: Path, makers: dict[str, Tensor]
) -> None:
    described = tmp_path / "described" / "vae"
    described.mkdir(parents=True)
    config = (tiny_flux_folder / "vae" / "config.json").read_text(encoding="utf-8")
    (described / "config.json").write_text(config, encoding="utf-8")
    base = open_file(written(tmp_path, makers, described.parent), described.parent)
    merge = FileMerge(MergePlan(family="flux"), {}, base)
    with pytest.raises(MissingInput, match="lacks the weights of its vae"):
        write_folder(merge, tmp_path / "folder", torch.float32, {})
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{QKV}.weight": None}, "lacks double_blocks.1.img_attn.qkv"),
        ({f"{QKV}.bias": None}, "lacks "),
        ({"final_layer.linear.bias": None}, "lacks "),
        ({"double_blocks.0.img_mod.lin.weight": None}, "lacks "),
        ({f"{QKV}.weight": torch.zeros(90, 32)}, "cannot be"),
        ({f"{QKV}.bias": torch.zeros(100)}, "cannot be"),
        ({"single_blocks.0.linear1.bias": torch.zeros(100)}, "cannot be"),
        ({"scaled_fp8": torch.zeros(2)}, "is quantised"),
    ],
)
def test_what_is_not_whole_is_no_base(
    tmp_path: Path,
    tiny_flux_folder: Path,
    makers: dict[str, Tensor],
    change: dict[str, Tensor | None],
    message: str,
) -> None:
    changed = {key: value for key, value in (makers | change).items() if value is not None}
    with pytest.raises(MissingInput, match=message):
        open_file(written(tmp_path, changed, tiny_flux_folder), tiny_flux_folder)


def test_another_model_in_a_single_file(tmp_path: Path, tiny_flux_folder: Path) -> None:
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
    with pytest.raises(MissingInput, match="not FLUX's transformer"):
        open_file(written(tmp_path, tensors, tiny_flux_folder), tiny_flux_folder)
