"""The nearest LoRA against the singular values of the whole change, and read back by our reader."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffgraph.errors import MissingInput, PlanError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.reading import open_delta
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, LowRankUpdate, Update
from diffgraph.families import get_family
from diffgraph.merging import as_lora
from diffgraph.merging.as_lora import nearest_lora, write_lora
from diffgraph.merging.base_files import BaseFiles, open_base, open_folder
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.provenance import provenance

LINEAR = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
KERNEL = "unet.down_blocks.1.resnets.0.conv1.weight"
TEXT = "text_encoder.encoder.layers.0.mlp.fc1.weight"
BIAS = "unet.conv_in.bias"
COEFFICIENTS = {"hub:a@1": 0.7, "hub:b@1": -0.4, "hub:model@1": 0.5}


@pytest.fixture(scope="module")
def base() -> BaseFiles:
    return open_base(get_family("emoji64"))


def make_deltas(base: BaseFiles, dense: bool) -> dict[str, Delta]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def low_rank(name: str, rank: int) -> Update:
        shape = base.parameters[name].shape
        return LowRankUpdate(draw(shape[0], rank), draw(rank, shape[1:].numel()), 0.01, shape)

    second: dict[str, Update] = {name: low_rank(name, 5) for name in (LINEAR, TEXT)}
    if dense:
        second[LINEAR] = DenseUpdate(0.1 * draw(*base.parameters[LINEAR].shape))
        second[BIAS] = DenseUpdate(0.01 * draw(*base.parameters[BIAS].shape))
    whole = CheckpointUpdate(base.parameters[LINEAR] + 1, base.parameters[LINEAR])
    updates: dict[str, dict[str, Update]] = {
        "hub:a@1": {name: low_rank(name, 3) for name in (LINEAR, KERNEL)},
        "hub:b@1": second,
        "hub:model@1": {LINEAR: whole},
    }
    return {ref: Delta(items, "test", Coverage()) for ref, items in updates.items()}


def plan_of(rule: str = "linear", without: str = "") -> MergePlan:
    experts = (
        PlannedExpert(
            ref=ref, kind="checkpoint" if "model" in ref else "peft", coefficient=coefficient
        )
        for ref, coefficient in COEFFICIENTS.items()
        if ref != without
    )
    return MergePlan(family="emoji64", experts=tuple(experts), rule=rule)


def changes(deltas: dict[str, Delta]) -> dict[str, torch.Tensor]:
    """Return the sum of the PEFT experts' changes in float64."""
    found: dict[str, torch.Tensor] = {}
    for ref in ("hub:a@1", "hub:b@1"):
        for name, update in deltas[ref].updates.items():
            added = COEFFICIENTS[ref] * update.dense().double()
            found[name] = found.get(name, 0) + added
    return found


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("side", [0, 384])
def test_it_is_the_nearest_of_its_rank(
    tmp_path: Path,
    base: BaseFiles,
    monkeypatch: pytest.MonkeyPatch,
    dense: bool,
    rank: int,
    side: int,
) -> None:
    monkeypatch.setattr(as_lora, "EXACT_SIDE", side)  # 0: by the randomised search
    deltas = make_deltas(base, dense)
    lora = nearest_lora(plan_of(), deltas, base, rank, torch.float32)
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora, {"format": "pt"})
    found = open_delta(path, base.parameters)
    assert not found.coverage.unknown
    energy = lost = 0.0
    for name, whole in changes(deltas).items():
        energy += float(whole.square().sum())
        if name == BIAS:
            lost += float(whole.square().sum())
            continue
        values = torch.linalg.svdvals(whole.flatten(1))
        least = float(values[rank:].square().sum())
        apart = float((found.updates[name].dense().double() - whole).square().sum())
        assert apart <= least * 1.02 + 1e-9 * float(values.square().sum()), name
        lost += least
    assert set(found.updates) == set(changes(deltas)) - {BIAS}
    assert lora.left_out == ((BIAS,) if dense else ())
    assert abs(lora.kept - (1 - lost / energy)) < 0.01


def test_the_same_plan_gives_the_same_lora(
    base: BaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_lora, "EXACT_SIDE", 0)
    found = [nearest_lora(plan_of(), make_deltas(base, True), base, 4) for _ in range(2)]
    for key, value in found[0].tensors.items():
        assert torch.equal(value, found[1].tensors[key])


def test_kohyas_names(tmp_path: Path, base: BaseFiles) -> None:
    lora = nearest_lora(plan_of(), make_deltas(base, False), base, 4)
    write_lora(tmp_path / "lora.safetensors", lora, {})
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        keys = set(file.keys())
        kernel = "lora_unet_down_blocks_1_resnets_0_conv1"
        assert file.get_tensor(f"{kernel}.lora_down.weight").shape[2:] == (3, 3)
        assert file.get_tensor(f"{kernel}.lora_up.weight").shape[1:] == (3, 1, 1)
        assert float(file.get_tensor(f"{kernel}.alpha")) == 3.0
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight" in keys


def test_a_plan_without_a_part_for_a_lora(base: BaseFiles) -> None:
    deltas = make_deltas(base, False)
    alone = MergePlan(family="emoji64", experts=plan_of().experts[2:])
    with pytest.raises(PlanError, match="no PEFT experts"):
        nearest_lora(alone, deltas, base, 4)
    with pytest.raises(PlanError, match="ties mixes"):
        nearest_lora(plan_of("ties"), deltas, base, 4)
    assert nearest_lora(plan_of("ties", without="hub:model@1"), deltas, base, 4).tensors


def only(base: BaseFiles, updates: dict[str, Update]) -> tuple[MergePlan, dict[str, Delta]]:
    expert = PlannedExpert(ref="hub:a@1", kind="peft", coefficient=1)
    plan = MergePlan(family="emoji64", experts=(expert,))
    return plan, {"hub:a@1": Delta(updates, "test", Coverage())}


def test_norms_and_biases_alone_make_no_lora(base: BaseFiles) -> None:
    norm = "unet.conv_norm_out.weight"
    updates: dict[str, Update] = {
        name: DenseUpdate(torch.ones(base.parameters[name].shape)) for name in (BIAS, norm)
    }
    plan, deltas = only(base, updates)
    with pytest.raises(PlanError, match="norms and biases only, 2 of them"):
        nearest_lora(plan, deltas, base, 4)


def test_nothing_makes_no_lora(base: BaseFiles) -> None:
    plan, deltas = only(base, {})
    with pytest.raises(PlanError, match="change nothing"):
        nearest_lora(plan, deltas, base, 4)


def test_a_base_that_holds_nan_is_named(tiny_sd15_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("to_q.weight"))
    weights[key].view(-1)[0] = torch.nan
    save_file(weights, file)
    damaged = open_folder(folder)
    name = f"unet.{key}"
    base = damaged.parameters[name]
    plan, deltas = only(damaged, {name: CheckpointUpdate(torch.ones(base.shape), base)})
    with pytest.raises(MissingInput, match=f"{file}.*{key}.*1 NaN"):
        nearest_lora(plan, deltas, damaged, 4)


def test_a_base_of_eight_bits(tiny_sd15_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd15_folder, tmp_path / "base"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in load_file(file).items()}, file)
    eight = open_folder(folder)
    name = next(name for name in eight.merged if name.endswith("to_q.weight"))
    plan, deltas = only(eight, {name: DenseUpdate(torch.ones(eight.parameters[name].shape))})
    assert nearest_lora(plan, deltas, eight, 1).kept > 0.999


@pytest.mark.parametrize("family", ["sd15", "flux", "emoji64"])
def test_its_architecture_says_that_it_is_a_lora(base: BaseFiles, family: str) -> None:
    lora = as_lora.NearestLora({}, 1.0, (), rank=4)
    told = provenance(MergePlan(family=family), {}, "1", "a LoRA")
    both = told | as_lora.lora_metadata(lora, family)
    assert both["modelspec.architecture"] == f"{told['modelspec.architecture']}/lora"


def test_a_rule_that_makes_no_one_model_makes_no_lora(base: BaseFiles) -> None:
    experts = plan_of(without="hub:model@1").experts
    chosen = {"content": "hub:a@1"}
    plan = MergePlan(family="emoji64", experts=experts, rule="k_lora", parameters=chosen)
    with pytest.raises(PlanError, match="k_lora"):
        nearest_lora(plan, make_deltas(base, False), base, 4)


def test_factors_that_do_not_fit_the_type_are_told(base: BaseFiles) -> None:
    strong = PlannedExpert(ref="hub:a@1", kind="peft", coefficient=1e14)
    plan, deltas = MergePlan(family="emoji64", experts=(strong,)), make_deltas(base, False)
    with pytest.raises(PlanError, match="too large for float16"):
        nearest_lora(plan, deltas, base, 4)
    for value in nearest_lora(plan, deltas, base, 4, torch.float32).tensors.values():
        assert value.isfinite().all()


def test_its_rank_is_the_one_it_has(base: BaseFiles) -> None:
    deltas = make_deltas(base, True)
    lora = nearest_lora(plan_of(without="hub:model@1"), deltas, base, 10**400)
    ranks = [value.shape[0] for key, value in lora.tensors.items() if "lora_down" in key]
    assert lora.rank == max(ranks) < 1000
    assert as_lora.lora_metadata(lora, "emoji64")["ss_network_dim"] == str(max(ranks))
