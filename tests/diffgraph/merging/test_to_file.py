"""Merged files against dense float64 sums, and against the libraries that have to load them."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import DamagedFile, MissingInput, PlanError, StorageError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.reading import open_delta
from diffgraph.experts.updates import CheckpointUpdate
from diffgraph.families import get_family
from diffgraph.merging import to_file, weights_writer
from diffgraph.merging.base_files import BaseFiles, open_base, open_folder
from diffgraph.merging.layouts import diffusers, left_out, single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.rules import PlannedMerge
from diffgraph.merging.to_file import TYPES, FileMerge

LINEAR = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
CONVOLUTION = "unet.conv_in.weight"
FILES = ("fairground", "blueprint", "dreamy", "embroidery", "glitch")


@pytest.fixture(scope="module")
def base() -> BaseFiles:
    return open_base(get_family("emoji64"))


@pytest.fixture(scope="module")
def deltas(base: BaseFiles) -> dict[str, Delta]:
    """The bundled experts: checkpoints and adapters of every format."""
    hub = get_family("emoji64").hub
    assert hub is not None
    found: dict[str, Delta] = {}
    formats: dict[str, int] = {}
    for path in sorted((hub / "files").glob("*.safetensors")):
        try:
            delta = open_delta(path, base.parameters)
            for name in delta.updates:
                delta.check(name)
        except Exception:  # the hub holds broken files on purpose
            continue
        formats[delta.format] = formats.get(delta.format, 0) + 1
        if formats[delta.format] <= 2:
            found[f"hub:{path.stem}@1"] = delta
    assert {"checkpoint", "lora", "dora", "loha", "lokr"} <= set(formats)
    return found


def plan_of(deltas: dict[str, Delta], rule: str = "linear", **parameters: float) -> MergePlan:
    experts = (
        PlannedExpert(
            ref=ref,
            kind="checkpoint" if delta.format == "checkpoint" else "peft",
            coefficient=0.15 + 0.05 * place,
        )
        for place, (ref, delta) in enumerate(deltas.items())
    )
    return MergePlan(family="emoji64", experts=tuple(experts), rule=rule, parameters=parameters)


def formula(base: BaseFiles, deltas: dict[str, Delta], plan: MergePlan) -> dict[str, Tensor]:
    merged = {name: value.double() for name, value in base.parameters.items()}
    for ref, coefficient in plan.coefficients().items():
        for name, update in deltas[ref].updates.items():
            merged[name] = merged[name] + coefficient * update.dense().double()
    return merged


def assert_is(found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = torch.linalg.vector_norm(found.double() - expected)
    assert error <= tolerance * torch.linalg.vector_norm(expected)


def values_of(path: Path, base: BaseFiles) -> dict[str, Tensor]:
    """Return a merged file's tensors by our names, as our own reader understands it."""
    updates = open_delta(path, base.parameters).updates
    assert all(isinstance(update, CheckpointUpdate) for update in updates.values())
    return {name: update.value.reshape(update.shape) for name, update in updates.items()}


@pytest.mark.parametrize(("type", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("bf16", 8e-3)])
def test_a_file_is_the_formula(
    tmp_path: Path, base: BaseFiles, deltas: dict[str, Delta], type: str, tolerance: float
) -> None:
    plan = plan_of(deltas)
    path = tmp_path / "merged.safetensors"
    FileMerge(plan, deltas, base).write(path, single_file(base), TYPES[type], {"format": "pt"})
    found = values_of(path, base)
    expected = formula(base, deltas, plan)
    assert set(found) == set(expected)
    for name, value in found.items():
        assert value.dtype == TYPES[type]
        assert_is(value, expected[name], tolerance)


@pytest.mark.parametrize("rule", ["ties", "dare", "dare_ties", "della", "slerp"])
def test_a_file_is_what_the_rule_makes(
    tmp_path: Path, base: BaseFiles, deltas: dict[str, Delta], rule: str
) -> None:
    plan = plan_of(deltas, rule)
    path = tmp_path / "merged.safetensors"
    slots = {
        key: slot
        for key, slot in single_file(base).items()
        if slot.merged and ("attn1" in key or ".in_layers" in key)
    }
    FileMerge(plan, deltas, base).write(path, slots, torch.float32, {})
    found = load_file(path)
    planned = PlannedMerge(plan)
    for key, slot in slots.items():
        (place,) = slot.merged
        updates = {
            ref: delta.updates[place.name]
            for ref, delta in deltas.items()
            if place.name in delta.updates
        }
        expected = planned.parameter(place.name, base.parameters[place.name], updates)
        assert torch.equal(found[key], expected.reshape(slot.shape))


def test_the_same_plan_gives_the_same_bytes(
    tmp_path: Path, base: BaseFiles, deltas: dict[str, Delta], monkeypatch: Any
) -> None:
    plan = plan_of(deltas)
    written = []
    for threads, piece in ((1, 1 << 21), (3, 1 << 12)):
        monkeypatch.setattr(to_file, "PIECE", piece)
        path = tmp_path / f"{threads}.safetensors"
        merge = FileMerge(plan, deltas, base, threads)
        merge.write(path, single_file(base), torch.float16, {"format": "pt"})
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_no_experts_is_the_base_in_another_layout(tmp_path: Path, base: BaseFiles) -> None:
    path = tmp_path / "base.safetensors"
    merge = FileMerge(MergePlan(family="emoji64"), {}, base)
    merge.write(path, single_file(base), torch.float16, {})
    for name, value in values_of(path, base).items():
        assert torch.equal(value, base.parameters[name])


class TestNothingHalfWritten:
    def test_a_full_disk(
        self, tmp_path: Path, base: BaseFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(handle: int, start: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        path = tmp_path / "merged.safetensors"
        merge = FileMerge(MergePlan(family="emoji64"), {}, base)
        with pytest.raises(StorageError, match=r"merged.safetensors: No space left"):
            merge.write(path, single_file(base), torch.float16, {})
        assert not list(tmp_path.iterdir())

    def test_a_disk_that_fills_while_it_is_written_to(
        self, tmp_path: Path, base: BaseFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        left = [1 << 20]

        def write(handle: int, data: memoryview, at: int) -> int:
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle, data, at)

        monkeypatch.setattr(weights_writer.os, "pwrite", write)
        path = tmp_path / "merged.safetensors"
        path.write_bytes(b"what was there before")
        merge = FileMerge(MergePlan(family="emoji64"), {}, base)
        with pytest.raises(StorageError, match="No space left"):
            merge.write(path, single_file(base), torch.float16, {})
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert path.read_bytes() == b"what was there before"

    @pytest.mark.parametrize("name", [LINEAR, CONVOLUTION])
    @pytest.mark.parametrize("rule", ["linear", "ties", "dare_ties"])
    def test_an_expert_that_holds_nan(
        self, tmp_path: Path, base: BaseFiles, name: str, rule: str
    ) -> None:
        value = base.parameters[name].float().clone()
        value.view(-1)[-value.numel() // 10 :] = torch.nan
        save_file({name: value}, tmp_path / "bad.safetensors")
        delta = open_delta(tmp_path / "bad.safetensors", base.parameters)
        plan = plan_of({"hub:bad@1": delta}, rule)
        path = tmp_path / "merged.safetensors"
        with pytest.raises(DamagedFile, match=f"bad.safetensors.*{name[:20]}"):
            FileMerge(plan, {"hub:bad@1": delta}, base).write(
                path, single_file(base), torch.float16, {}
            )
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("key", ["conv_in.weight", "conv_in.bias"])
    @pytest.mark.parametrize("component", ["unet", "vae"])
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_a_base_that_holds_nan_is_named(
        self, tmp_path: Path, tiny_sd15_folder: Path, component: str, key: str, bad: float
    ) -> None:
        folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
        file = folder / component / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        key = key if key in weights else f"decoder.{key}"
        weights[key].view(-1)[0] = bad
        save_file(weights, file)
        damaged = open_folder(folder)
        merge = FileMerge(MergePlan(family="sd15"), {}, damaged)
        with pytest.raises(MissingInput, match=f"{file}.*{key}.*1 NaN or infinite"):
            merge.write(tmp_path / "m.safetensors", single_file(damaged), torch.float32, {})
        assert not (tmp_path / "m.safetensors").exists()

    def test_a_base_that_does_not_fit_the_type_is_not_put_down_to_coefficients(
        self, tmp_path: Path, tiny_sd15_folder: Path
    ) -> None:
        folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({**load_file(file), "conv_in.bias": torch.full((32,), 1e6)}, file)
        large = open_folder(folder)
        with pytest.raises(PlanError, match="too large for float16; another type would do"):
            FileMerge(MergePlan(family="sd15"), {}, large).write(
                tmp_path / "m.safetensors", single_file(large), torch.float16, {}
            )

    def test_numbers_that_do_not_fit_the_type(self, tmp_path: Path, base: BaseFiles) -> None:
        value = torch.full(base.parameters[LINEAR].shape, 7e4)
        save_file({LINEAR: value}, tmp_path / "large.safetensors")
        delta = open_delta(tmp_path / "large.safetensors", base.parameters)
        merge = FileMerge(plan_of({"hub:large@1": delta}).model_copy(
            update={"experts": (PlannedExpert(ref="hub:large@1", kind="peft", coefficient=1),)}
        ), {"hub:large@1": delta}, base)  # fmt: skip
        with pytest.raises(PlanError, match="too large for float16"):
            merge.write(tmp_path / "merged.safetensors", single_file(base), torch.float16, {})
        merge.write(tmp_path / "merged.safetensors", single_file(base), torch.bfloat16, {})

    def test_a_plan_that_is_no_one_model(self, tmp_path: Path, base: BaseFiles) -> None:
        experts = tuple(
            PlannedExpert(ref=f"hub:{name}@1", kind="peft", coefficient=1) for name in "ab"
        )
        plan = MergePlan(
            family="emoji64", experts=experts, rule="k_lora", parameters={"content": "hub:a@1"}
        )
        deltas = {expert.ref: Delta({}, "lora", Coverage()) for expert in experts}
        with pytest.raises(PlanError, match="every denoising step"):
            FileMerge(plan, deltas, base).write(
                tmp_path / "merged.safetensors", single_file(base), torch.float16, {}
            )
        assert not list(tmp_path.iterdir())


def test_metadata_of_any_language_survive(tmp_path: Path, base: BaseFiles) -> None:
    metadata = {"format": "pt", "diffgraph.debts": 'credit "Ünïcode" by 猫\n' * 50}
    path = tmp_path / "merged.safetensors"
    slots = dict(list(single_file(base).items())[:3])
    FileMerge(MergePlan(family="emoji64"), {}, base).write(path, slots, torch.float16, metadata)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata


def test_layouts_have_a_place_for_everything(base: BaseFiles) -> None:
    assert not left_out(base, single_file(base))
    placed = {slot.merged[0].name for slots in diffusers(base).values() for slot in slots.values()}
    assert placed == set(base.merged)


def test_a_thread_pool_of_torch_is_as_it_was(tmp_path: Path, base: BaseFiles) -> None:
    before = torch.get_num_threads()
    slots = dict(list(single_file(base).items())[:3])
    merge = FileMerge(MergePlan(family="emoji64"), {}, base)
    merge.write(tmp_path / "merged.safetensors", slots, torch.float16, {})
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", weights_writer.CODES)
def test_the_writer_knows_its_types(tmp_path: Path, dtype: torch.dtype) -> None:
    path, values = tmp_path / "weights.safetensors", torch.linspace(-2, 2, 12).to(dtype)
    with weights_writer.new_weights(path, {"a": (3, 4)}, dtype, {}) as writer:
        writer.write("a", values[8:], 8)
        writer.write("a", values[:8])
    found = load_file(path)["a"]
    assert found.dtype == dtype
    assert torch.equal(found.float().reshape(-1), values.float())
