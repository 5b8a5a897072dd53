"""A single-file checkpoint of Stable Diffusion 1.5 as the base of a merge."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import open_delta
from diffgraph.families import get_family
from diffgraph.merging.base_files import BaseFiles, open_base, open_folder
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.to_file import FileMerge
from diffgraph.merging.to_folder import write_folder
from tests.diffgraph.families.single_files import write_single_file

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
VAE = "first_stage_model."
MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
Opened = Callable[[Path], BaseFiles]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Open a base as the settings name it."""

    def open_it(place: Path) -> BaseFiles:
        monkeypatch.setenv("DIFFGRAPH_BASES", json.dumps({"sd15": str(place)}))
        return open_base(get_family("sd15"))

    return open_it


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory, tiny_sd15_folder: Path) -> dict[str, Tensor]:
    """What a single file of the model holds, its autoencoder's numbers halved."""
    file = tmp_path_factory.mktemp("single") / "whole.safetensors"
    write_single_file(tiny_sd15_folder, file)
    found: dict[str, Tensor] = load_file(file)
    return found


@pytest.fixture
def described(tmp_path: Path, tiny_sd15_folder: Path) -> Path:
    """The folder beside the file, without any weights."""
    kept = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base", ignore=kept))


@pytest.fixture
def halved(tmp_path: Path, tiny_sd15_folder: Path) -> Path:
    """The same model in a folder, with the autoencoder halved."""
    folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "folder"))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: value / 2 for key, value in load_file(file).items()}, file)
    return folder


def written(described: Path, tensors: Mapping[str, Tensor | None]) -> Path:
    """Write a single file beside its folder, without what is None."""
    file = described.with_suffix(".safetensors")
    save_file({key: value for key, value in tensors.items() if value is not None}, file)
    return file


def without(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not key.startswith(prefixes)}


def experts_of(folder: Path, base: BaseFiles) -> dict[str, Delta]:
    """Write a checkpoint and a LoRA, once, and open them against a base."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    if not (folder / "model.safetensors").exists():
        whole = {name: base.parameters[name].float() for name in sorted(base.parameters)}
        whole = {name: (value + draw(*value.shape)).half() for name, value in whole.items()}
        save_file(whole, folder / "model.safetensors")
        out, inner = base.parameters[f"{MODULE}.weight"].shape
        lora = {f"{MODULE}.lora_A.weight": draw(4, inner), f"{MODULE}.lora_B.weight": draw(out, 4)}
        save_file(lora, folder / "lora.safetensors")
    return {
        f"hub:{name}@1": open_delta(folder / f"{name}.safetensors", base.parameters)
        for name in ("model", "lora")
    }


def merge_of(folder: Path, base: BaseFiles, rule: str = "linear") -> FileMerge:
    experts = (
        PlannedExpert(ref="hub:model@1", kind="checkpoint", coefficient=0.6),
        PlannedExpert(ref="hub:lora@1", kind="peft", coefficient=0.8),
    )
    plan = MergePlan(family="sd15", experts=experts, rule=rule, normalisation="none")
    return FileMerge(plan, experts_of(folder, base), base)


@pytest.mark.parametrize(
    ("rule", "dtype", "text"),
    [("linear", torch.float16, "text_model."), ("ties", torch.float32, "")],
)
def test_a_merge_is_that_of_the_folder(
    tmp_path: Path,
    opened: Opened,
    described: Path,
    halved: Path,
    tensors: dict[str, Tensor],
    rule: str,
    dtype: torch.dtype,
    text: str,
) -> None:
    file = written(described, {key.replace("text_model.", text): tensors[key] for key in tensors})
    merged = []
    for base in (opened(file), open_folder(halved)):
        merge, out = merge_of(tmp_path, base, rule), tmp_path / "out.safetensors"
        merge.write(out, single_file(base), dtype, {})
        merged.append(load_file(out))
    found, expected = merged
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == dtype
        assert torch.equal(value, expected[key]), key
    for prefix in (UNET, TEXT, VAE):
        assert any(key.startswith(prefix) for key in found)


def test_a_folder_is_that_of_the_folder(
    tmp_path: Path, opened: Opened, described: Path, halved: Path, tensors: dict[str, Tensor]
) -> None:
    from diffusers import StableDiffusionPipeline

    folders = {"from_file": opened(written(described, tensors)), "from_folder": open_folder(halved)}
    models: list[Any] = []
    for name, base in folders.items():
        merge, out = merge_of(tmp_path, base), tmp_path / name
        write_folder(merge, out, torch.float32, {"format": "pt"})
        models.append(StableDiffusionPipeline.from_pretrained(out, local_files_only=True))
    ours, theirs = models
    for component in ("unet", "text_encoder", "vae"):
        expected = getattr(theirs, component).state_dict()
        found = getattr(ours, component).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), component
    name = f"{MODULE}.weight"
    changed = ours.unet.get_parameter(name.removeprefix("unet."))
    assert not torch.equal(changed, folders["from_file"].parameters[name])


@pytest.mark.parametrize("lacking", [(VAE,), (VAE, TEXT)])
def test_what_a_file_lacks_comes_from_beside_it(
    opened: Opened,
    tmp_path: Path,
    tiny_sd15_folder: Path,
    tensors: dict[str, Tensor],
    lacking: tuple[str, ...],
) -> None:
    beside = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
    (beside / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    base = opened(written(beside, without(tensors, *lacking)))
    folder = open_folder(tiny_sd15_folder)
    assert base.parameters.keys() == folder.parameters.keys()
    for name, value in folder.parameters.items():
        assert torch.equal(base.parameters[name], value), name
    assert base.autoencoder.keys() == folder.autoencoder.keys()
    for key, stored in folder.autoencoder.items():
        assert torch.equal(base.autoencoder[key].value, stored.value), key


@pytest.mark.parametrize(("prefix", "component"), [(VAE, "vae"), (TEXT, "text_encoder")])
def test_what_is_nowhere_is_told(
    opened: Opened, described: Path, tensors: dict[str, Tensor], prefix: str, component: str
) -> None:
    file = written(described, without(tensors, prefix))
    with pytest.raises(MissingInput, match=f"lacks its {component}, and so does"):
        opened(file)


def test_all_of_it_is_mapped(opened: Opened, described: Path, tensors: dict[str, Tensor]) -> None:
    base = opened(written(described, tensors))
    for stored in (*base.merged.values(), *base.autoencoder.values()):
        mapped = stored.file.tensor(stored.held_by)
        assert stored.value.data_ptr() == mapped.data_ptr(), stored.key
        stored.release()


TIME = f"{UNET}time_embed.0.weight"
BLOCK = f"{UNET}input_blocks.1.1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{BLOCK}.norm.bias": None}, "lacks 1 weights of its unet, for one down_blocks.0.att"),
        ({f"{TEXT}text_model.final_layer_norm.bias": None}, "weights of its text_encoder"),
        ({f"{VAE}decoder.conv_in.weight": None}, "weights of its vae, for one decoder.conv_in"),
        ({f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}, r"found \(32, 9, 3, 3\)"),
        ({TIME: torch.zeros(128, 32, dtype=torch.int8)}, "is quantised"),
        ({f"{UNET}scaled_fp8": torch.zeros(2)}, "is quantised"),
    ],
)
def test_what_is_not_whole_is_no_base(
    opened: Opened,
    described: Path,
    tensors: dict[str, Tensor],
    change: Mapping[str, Tensor | None],
    message: str,
) -> None:
    file = written(described, {**tensors, **change})
    with pytest.raises(MissingInput, match=message):
        opened(file)


def test_other_files_are_told(opened: Opened, described: Path, tensors: dict[str, Tensor]) -> None:
    file = written(described, {"double_blocks.0.img_attn.qkv.weight": torch.zeros(96, 32)})
    with pytest.raises(MissingInput, match="is not a Stable Diffusion checkpoint"):
        opened(file)
    written(described, tensors)
    (described / "unet" / "config.json").unlink()
    with pytest.raises(MissingInput, match=r"config\.json cannot be read"):
        opened(file)


def test_matrices_and_eight_bits(
    tmp_path: Path, opened: Opened, described: Path, tensors: dict[str, Tensor]
) -> None:
    kernels = [key for key, value in tensors.items() if value.shape[2:] == (1, 1)]
    assert any(key.startswith(VAE) for key in kernels)
    assert any(key.startswith(BLOCK) for key in kernels)
    flat = {key: tensors[key].flatten(1) for key in kernels}
    eight = tensors[TIME].to(torch.float8_e4m3fn)
    base = opened(written(described, tensors | flat | {TIME: eight}))
    out = tmp_path / "out.safetensors"
    FileMerge(MergePlan(family="sd15"), {}, base).write(out, single_file(base), torch.float32, {})
    found = load_file(out)
    for key, value in found.items():
        assert torch.equal(value, tensors[key] if key != TIME else eight.float()), key
    unused = {f"{TEXT}text_model.embeddings.position_ids", "model_ema.decay"}
    assert tensors.keys() - found.keys() == unused
