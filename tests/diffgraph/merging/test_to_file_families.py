"""Merged files of every family's architecture, loaded again by the family and by diffusers."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import open_delta
from diffgraph.families import flux, get_family, sd15
from diffgraph.families.family import SamplerConfig
from diffgraph.merging.base_files import BaseFiles, open_base, open_folder
from diffgraph.merging.layouts import left_out, single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.to_file import FileMerge
from diffgraph.merging.to_folder import write_folder

LORA = {
    "sd15": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "flux": "transformer.single_transformer_blocks.0.attn.to_k",
}


def experts_of(folder: Path, base: BaseFiles, family: str) -> dict[str, Delta]:
    """Write a checkpoint of all parameters and a LoRA of one, and open them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    whole = {name: value.float() + draw(*value.shape) for name, value in base.parameters.items()}
    save_file({key: value.half() for key, value in whole.items()}, folder / "model.safetensors")
    module = LORA[family]
    out, inner = base.parameters[f"{module}.weight"].shape
    factors = {"lora_A": draw(4, inner), "lora_B": draw(out, 4)}
    save_file(
        {f"{module}.{part}.weight": value for part, value in factors.items()},
        folder / "lora.safetensors",
    )
    return {
        f"hub:{name}@1": open_delta(folder / f"{name}.safetensors", base.parameters)
        for name in ("model", "lora")
    }


def plan_of(family: str, rule: str = "linear") -> MergePlan:
    experts = (
        PlannedExpert(ref="hub:model@1", kind="checkpoint", coefficient=0.6),
        PlannedExpert(ref="hub:lora@1", kind="peft", coefficient=0.8),
    )
    return MergePlan(family=family, experts=experts, rule=rule)


def assert_is_the_plan(
    found: Mapping[str, Tensor], base: BaseFiles, deltas: dict[str, Delta], skipped: frozenset[str]
) -> None:
    assert set(found) == set(base.parameters)
    for name, value in found.items():
        expected = base.parameters[name].double()
        for ref, coefficient in plan_of("sd15").coefficients().items():
            if name in deltas[ref].updates and name not in skipped:
                expected = expected + coefficient * deltas[ref].updates[name].dense().double()
        error = torch.linalg.vector_norm(value.double() - expected)
        assert error <= 1e-5 * torch.linalg.vector_norm(expected), name


def test_sd15_in_a_single_file(tmp_path: Path, tiny_sd15_folder: Path) -> None:
    base = open_folder(tiny_sd15_folder)
    deltas = experts_of(tmp_path, base, "sd15")
    file = tmp_path / "merged.safetensors"
    merge = FileMerge(plan_of("sd15"), deltas, base)
    merge.write(file, single_file(base), torch.float32, {"format": "pt"})
    file.with_suffix("").symlink_to(tiny_sd15_folder)  # which describes it
    model: Any = sd15.load("cpu", place=str(file))
    assert_is_the_plan(model.parameters(), base, deltas, frozenset())
    whole: Any = sd15.load("cpu", place=str(tiny_sd15_folder))
    for name, value in model.vae.state_dict().items():
        assert torch.equal(value, whole.vae.state_dict()[name]), name


def test_flux_in_its_makers_layout(tmp_path: Path, tiny_flux_folder: Path) -> None:
    base = open_folder(tiny_flux_folder)
    deltas = experts_of(tmp_path, base, "flux")
    file = tmp_path / "merged.safetensors"
    slots = single_file(base)
    FileMerge(plan_of("flux"), deltas, base).write(file, slots, torch.float32, {})
    without = left_out(base, slots)
    assert without == {name for name in base.parameters if name.startswith("text_encoder")}
    file.with_suffix("").symlink_to(tiny_flux_folder)
    model: Any = flux.load("cpu", torch.float32, place=str(file))
    assert_is_the_plan(model.parameters(), base, deltas, without)


def test_flux_in_a_folder(tmp_path: Path, tiny_flux_folder: Path) -> None:
    base = open_folder(tiny_flux_folder)
    deltas = experts_of(tmp_path, base, "flux")
    merge = FileMerge(plan_of("flux"), deltas, base)
    write_folder(merge, tmp_path / "merged", torch.float32, {"format": "pt"})
    model: Any = flux.load("cpu", torch.float32, place=str(tmp_path / "merged"))
    assert_is_the_plan(model.parameters(), base, deltas, frozenset())


def test_a_folder_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    base = open_base(get_family("emoji64"))  # which has no model_index.json of its own
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    changed = {name: base.parameters[name].float() + 1}
    save_file(changed, tmp_path / "model.safetensors")
    delta = open_delta(tmp_path / "model.safetensors", base.parameters)
    expert = PlannedExpert(ref="hub:model@1", kind="checkpoint", coefficient=1)
    merge = FileMerge(MergePlan(family="emoji64", experts=(expert,)), {expert.ref: delta}, base)
    folder = tmp_path / "merged"
    write_folder(merge, folder, torch.float32, {"format": "pt"})
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert torch.equal(pipeline.unet.get_parameter(name.removeprefix("unet.")), changed[name])
    for key, stored in base.autoencoder.items():
        assert torch.equal(pipeline.vae.get_parameter(key), stored.value.float()), key
    image = pipeline("a cat", num_inference_steps=1, output_type="np", width=64, height=64).images
    assert image.shape == (1, 64, 64, 3)
    (folder / "diffgraph.json").unlink()
    with pytest.raises(MissingInput, match="no merge wrote"):
        write_folder(merge, folder, torch.float32, {})


@pytest.mark.parametrize("family", ["emoji64", "sd15", "flux"])
def test_a_folder_draws_our_image_with_no_word_beside_it(
    tmp_path: Path,
    tiny_sd15_folder: Path,
    tiny_flux_folder: Path,
    caplog: pytest.LogCaptureFixture,
    family: str,
) -> None:
    from diffusers import DiffusionPipeline

    if family == "emoji64":
        base, model = open_base(get_family(family)), get_family(family).load("cpu")
    else:
        source = {"sd15": tiny_sd15_folder, "flux": tiny_flux_folder}[family]
        base = open_folder(source)
        model = {"sd15": sd15, "flux": flux}[family].load("cpu", torch.float32, place=str(source))
    model.resolution = side = 32 if family == "flux" else 64
    merge = FileMerge(MergePlan(family=family), {}, base)
    write_folder(merge, tmp_path / "merged", torch.float32, {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        pipeline: Any = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    assert not [record for record in caplog.records if record.name.startswith("diffusers")]
    pipeline.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 3, "guidance_scale": 4.0, "width": side, "height": side}
    short = {"max_sequence_length": 48} if family == "flux" else {}  # as the tiny tokenizer has
    noise = torch.Generator("cpu").manual_seed(7)
    theirs = pipeline("a cat", **given, **short, generator=noise, output_type="pt").images
    ours = model.sample(["a cat"], [7], SamplerConfig(steps=3, guidance=4.0))
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"a": 1, "a": 2}', "{"])
def test_a_configuration_of_the_base_that_says_nothing_is_named(
    tmp_path: Path, tiny_sd15_folder: Path, content: str
) -> None:
    folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
    (folder / "unet" / "config.json").write_text(content)
    base = open_folder(folder)
    merge = FileMerge(MergePlan(family="sd15"), {}, base)
    with pytest.raises(MissingInput, match=r"unet/config\.json describes nothing"):
        write_folder(merge, tmp_path / "merged", torch.float16, {})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("family", ["sd15", "flux"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_folder_of_a_half_precision_base_draws_with_no_word_of_a_type(
    tmp_path: Path,
    tiny_sd15_folder: Path,
    tiny_flux_folder: Path,
    family: str,
    dtype: torch.dtype,
) -> None:
    from diffusers import FluxPipeline, StableDiffusionPipeline

    source, kind = {
        "sd15": (tiny_sd15_folder, StableDiffusionPipeline),
        "flux": (tiny_flux_folder, FluxPipeline),
    }[family]
    kind.from_pretrained(source, torch_dtype=torch.float16).save_pretrained(tmp_path / "half")
    base = open_folder(tmp_path / "half")
    merge = FileMerge(MergePlan(family=family), {}, base)
    write_folder(merge, tmp_path / "merged", dtype, {"format": "pt"})
    pipeline: Any = kind.from_pretrained(tmp_path / "merged", local_files_only=True)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert len({part.dtype for part in parts}) == 1
    size = {"width": 32, "height": 32, "num_inference_steps": 1, "output_type": "np"}
    assert pipeline("a cat", **size).images.shape == (1, 32, 32, 3)
    stored = load_file(tmp_path / "merged" / "vae" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}
