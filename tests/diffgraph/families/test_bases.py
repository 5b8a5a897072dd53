"""Where a base may lie, and what is said when it is not there."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import MissingInput, ServiceUnavailable, UnsafeFile
from diffgraph.families import flux, flux_layout, get_family, sd15
from tests.diffgraph.families.single_files import write_single_file


def described(folder: Path, file: Path) -> None:
    """Put a base's configurations and what else a file may lack into the folder beside it."""
    shutil.copytree(folder, file.with_suffix(""))


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.fixture(scope="module")
def whole(tiny_sd15_folder: Path) -> Any:
    """The small base as its folder has it."""
    return sd15.load("cpu", place=str(tiny_sd15_folder))


@pytest.fixture(scope="module")
def whole_flux(tiny_flux_folder: Path) -> Any:
    return flux.load("cpu", torch.float32, place=str(tiny_flux_folder))


@pytest.mark.parametrize(("text", "vae"), [("text_model.", True), ("", False)])
def test_sd15_in_one_file(
    tiny_sd15_folder: Path, whole: Any, tmp_path: Path, text: str, vae: bool
) -> None:
    file = tmp_path / "model.safetensors"
    write_single_file(tiny_sd15_folder, file, text, vae)
    described(tiny_sd15_folder, file)
    model = sd15.load("cpu", place=str(file))
    assert_same(model.parameters(), whole.parameters())
    scale = 0.5 if vae else 1.0
    assert_same(
        model.vae.state_dict(),
        {name: scale * value for name, value in whole.vae.state_dict().items()},
    )


@pytest.mark.parametrize("layout", ["makers", "makers, prefixed", "diffusers"])
def test_flux_in_one_file(
    tiny_flux_folder: Path, whole_flux: Any, tmp_path: Path, layout: str
) -> None:
    every = whole_flux.parameters()
    ours = {name: value for name, value in every.items() if name.startswith("transformer.")}
    if layout == "diffusers":
        written = {name.removeprefix("transformer."): value for name, value in ours.items()}
    else:
        prefix = flux.PREFIX if "prefixed" in layout else ""
        written = {}
        shapes = {name: tuple(value.shape) for name, value in ours.items()}
        for key, placements in flux_layout.parameters(shapes).items():
            first = ours[placements[0].name]
            rows = max((stop for p in placements for _, stop in p.rows), default=len(first))
            written[prefix + key] = torch.empty(rows, *first.shape[1:])
            for placement in placements:
                placement.put(written[prefix + key], ours[placement.name])
    file = tmp_path / "model.safetensors"
    save_file(written, file)
    described(tiny_flux_folder, file)
    (file.with_suffix("") / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    model = flux.load("cpu", torch.float32, place=str(file))
    assert_same(model.parameters(), every)
    last = "proj_out.weight" if layout == "diffusers" else "final_layer.linear.weight"
    save_file({key: written[key] for key in written if key.removeprefix(flux.PREFIX) != last}, file)
    with pytest.raises(MissingInput, match=r"proj_out.weight should be \(16, 32\), found None"):
        flux.load("cpu", torch.float32, place=str(file))


def test_quantised_files_are_no_base(tiny_flux_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    scale = {"double_blocks.0.img_mod.lin.scale_weight": torch.ones(())}
    save_file({"double_blocks.0.img_mod.lin.weight": torch.zeros(192, 32), **scale}, file)
    described(tiny_flux_folder, file)
    with pytest.raises(MissingInput, match="is quantised"):
        flux.load("cpu", place=str(file))


def test_what_a_file_and_its_folder_lack_is_told(tiny_sd15_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_single_file(tiny_sd15_folder, file, vae=False)
    described(tiny_sd15_folder, file)
    (file.with_suffix("") / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingInput, match="lacks its vae, and so does"):
        sd15.load("cpu", place=str(file))


def test_half_precision_files_serve(tiny_sd15_folder: Path, whole: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sd15"
    shutil.copytree(tiny_sd15_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(weights).items()}, weights)
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = sd15.load("cpu", place=str(folder))
    assert model.dtype == torch.float32
    rounded = {key: value.half().float() for key, value in whole.unet.state_dict().items()}
    assert_same(model.unet.state_dict(), rounded)


def test_older_text_encoders_are_read_whole(
    tiny_sd15_folder: Path, whole: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "sd15"
    shutil.copytree(tiny_sd15_folder, folder)
    weights = folder / "text_encoder" / "model.safetensors"
    stored = load_file(weights)
    older = {f"text_model.{key}": value for key, value in stored.items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(older, weights, {"format": "pt"})
    assert_same(sd15.load("cpu", place=str(folder)).parameters(), whole.parameters())
    del older["text_model.final_layer_norm.weight"]
    save_file(older, weights, {"format": "pt"})
    with pytest.raises(MissingInput, match=r"lacks 1 of its weights, for one .*final_layer_norm"):
        sd15.load("cpu", place=str(folder))


def test_the_settings_say_where(
    tiny_sd15_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIFFGRAPH_BASES", json.dumps({"sd15": str(tiny_sd15_folder)}))
    assert get_family("sd15").load("cpu").family == "sd15"
    monkeypatch.setenv("DIFFGRAPH_BASES", json.dumps({"sd15": str(tmp_path / "none")}))
    with pytest.raises(MissingInput, match=r"no base model for sd15 at .*DIFFGRAPH_BASES"):
        get_family("sd15").load("cpu")


def test_a_hub_out_of_reach_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for module in (sd15, flux):  # tests are offline
        with pytest.raises(ServiceUnavailable, match=r"is not on this machine.*DIFFGRAPH_BASES"):
            module.load("cpu", place=module.HUB)
        with pytest.raises(ServiceUnavailable, match="is not on this machine"):
            module.load("cpu", place=module.HUB, offline=True)


def test_what_is_not_a_base_is_refused(tiny_sd15_folder: Path, tmp_path: Path) -> None:
    def refused(place: Path, said: str, error: type[Exception] = MissingInput) -> None:
        with pytest.raises(error, match=said):
            sd15.load("cpu", place=str(place))

    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"x")
    refused(pickled, "must be a safetensors file", UnsafeFile)
    refused(tmp_path, "is not a sd15 model: it has no unet")
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd15_folder, folder)
    encoder = (folder / "text_encoder").rename(tmp_path / "text_encoder")
    refused(folder, "is not a sd15 model: it has no text_encoder")
    encoder.rename(folder / "text_encoder")
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_suffix(".bin"))
    refused(folder, "no safetensors weights of its vae")
    vae.with_suffix(".bin").rename(vae)
    all_of_it = vae.read_bytes()
    vae.write_bytes(all_of_it[:1000])
    refused(folder, "cannot be loaded as the base of sd15")
    vae.write_bytes(all_of_it)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    refused(folder, "predicts v_prediction, not epsilon")


def test_an_inpainting_model_is_refused(tiny_sd15_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_sd15_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    stored = load_file(weights)
    stored["conv_in.weight"] = stored["conv_in.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()
    save_file(stored, weights)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 9}))
    with pytest.raises(MissingInput, match="its UNet takes 9 channels, not 4"):
        sd15.load("cpu", place=str(folder))


@pytest.mark.parametrize("kept", [1, 2])
def test_a_component_without_one_of_its_files_is_no_base(
    kept: int, tiny_sd15_folder: Path, tmp_path: Path
) -> None:
    from diffgraph.merging.base_files import open_folder

    folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    keys = sorted(tensors)
    for number, name in enumerate(names):
        save_file({key: tensors[key] for key in keys[number::2]}, file.with_name(name))
    assert_same(open_folder(folder).parameters, open_folder(tiny_sd15_folder).parameters)
    file.with_name(names[2 - kept]).unlink()
    with pytest.raises(MissingInput, match=f"unet lacks {names[2 - kept]}"):
        open_folder(folder)
