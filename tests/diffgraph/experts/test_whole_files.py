"""Files of many modules: mixed formats, ranks and alphas, biases, text encoders, fused tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from tests.diffgraph.experts.samples import (
    ALPHAS,
    BASE,
    KERNEL,
    LINEAR,
    NORM,
    POINT,
    RANKS,
    STEMS,
    TEXT,
    any_file,
    assert_close,
    draw,
    keyed,
    read,
)

Made = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Tensors by role, and the update they mean in float64."""


def lora(shape: torch.Size, rank: int, scale: float) -> Made:
    up, down = draw(rank, shape[0], rank), draw(rank + 1, rank, *shape[1:])
    ones = (1,) * (len(shape) - 2)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones), "lora_down.weight": down}
    return tensors, scale * torch.einsum("or,r...->o...", up, down)


def loha(shape: torch.Size, rank: int, scale: float) -> Made:
    sizes = [(shape[0], rank), (rank, shape[1:].numel())] * 2
    a1, b1, a2, b2 = (draw(seed + rank, *size) for seed, size in enumerate(sizes))
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    return tensors, (scale * (a1 @ b1) * (a2 @ b2)).reshape(shape)


def lokr(shape: torch.Size, rank: int, scale: float) -> Made:
    left = draw(1, 2, 2)
    a, b = draw(2, shape[0] // 2, rank), draw(3, rank, shape[1:].numel() // 2)
    right = (a @ b).reshape(shape[0] // 2, shape[1] // 2, *shape[2:])
    tensors = {"lokr_w1": left, "lokr_w2_a": a, "lokr_w2_b": b}
    return tensors, scale * torch.einsum("ac,bd...->abcd...", left, right).reshape(shape)


def full(shape: torch.Size, rank: int, scale: float) -> Made:
    value = draw(rank, *shape)
    return {"diff": value}, value


MAKERS = {"lora": lora, "loha": loha, "lokr": lokr, "full": full}
CHOICES = st.tuples(st.sampled_from(sorted(MAKERS)), RANKS, ALPHAS)


@any_file
@given(
    choices=st.dictionaries(
        st.sampled_from([LINEAR, KERNEL, POINT, TEXT]), CHOICES, min_size=1, max_size=4
    ),
    biases=st.booleans(),
    norms=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_any_mixture(
    choices: Mapping[str, Any], biases: bool, norms: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for module, (form, rank, alpha) in choices.items():
        scale = 1.0 if alpha is None else alpha / rank
        own, update = MAKERS[form](BASE[f"{module}.weight"].shape, rank, scale)
        if biases and f"{module}.bias" in BASE:
            own["diff_b"] = draw(rank, len(BASE[f"{module}.bias"]))
            expected[f"{module}.bias"] = own["diff_b"]
        tensors |= keyed(module, own, alpha)
        expected[f"{module}.weight"] = update
    if norms:
        own = {"w_norm": draw(1, 16), "b_norm": draw(2, 16)}
        tensors |= keyed(NORM, own)
        expected |= {f"{NORM}.weight": own["w_norm"], f"{NORM}.bias": own["b_norm"]}
    delta = read(tmp_path, tensors, dtype=dtype)
    assert set(delta.updates) == set(expected)
    for name, update in expected.items():
        assert_close(delta.updates[name].dense(), update)
    coverage = delta.coverage
    assert set(coverage.matched) == set(tensors)
    assert not coverage.unknown
    assert coverage.parameters == len(expected)
    whole = sum(float(update.square().sum()) for update in expected.values()) ** 0.5
    assert sum(size**2 for size in coverage.norms.values()) ** 0.5 == pytest.approx(whole, rel=1e-5)


def test_a_lora_and_a_whole_difference_of_one_module_add_up(tmp_path: Path) -> None:
    first, update = lora(BASE[f"{LINEAR}.weight"].shape, 3, 1.0)
    second = draw(1, 24, 12)
    delta = read(tmp_path, keyed(LINEAR, {**first, "diff": second}))
    assert_close(delta.updates[f"{LINEAR}.weight"].dense(), update + second)
    assert delta.format == "full+lora"


def test_the_bias_of_a_left_factor_is_scaled_like_it(tmp_path: Path) -> None:
    up, down, bias = draw(1, 24, 4), draw(2, 4, 12), draw(3, 24)
    tensors = {f"{LINEAR}.lora_A.weight": down, f"{LINEAR}.lora_B.weight": up}
    tensors |= {f"{LINEAR}.lora_B.bias": bias, f"{LINEAR}.alpha": torch.tensor(2.0)}
    delta = read(tmp_path, tensors)
    assert_close(delta.updates[f"{LINEAR}.weight"].dense(), 0.5 * up @ down)
    assert_close(delta.updates[f"{LINEAR}.bias"].dense(), 0.5 * bias)


def test_a_bias_that_the_base_lacks_is_unknown(tmp_path: Path) -> None:
    tensors = keyed(POINT, {"diff": draw(1, 16, 8), "diff_b": draw(2, 16)})
    tensors |= {key: value for part in (LINEAR, TEXT, KERNEL) for key, value in loras(part).items()}
    with pytest.raises(FamilyMismatch, match="7 of 8 keys"):
        read(tmp_path, tensors)


def loras(module: str) -> dict[str, torch.Tensor]:
    return keyed(module, lora(BASE[f"{module}.weight"].shape, 2, 1.0)[0])


@pytest.mark.parametrize("more", ["rescale", "lora_diag", "scalar", "lora_E", "reshape_weight"])
def test_no_module_is_read_without_a_key_that_nobody_understands(more: str, tmp_path: Path) -> None:
    """However few they are: what is left would be another change of the same weight."""
    tensors = {key: value for part in (LINEAR, TEXT, KERNEL) for key, value in loras(part).items()}
    tensors |= {f"{STEMS[POINT]}.diff": draw(1, 16, 8), f"{STEMS[LINEAR]}.{more}": draw(1, 24)}
    assert read(tmp_path, {key: tensors[key] for key in tensors if more not in key}).updates
    with pytest.raises(UnknownFormat, match=f"{more}' belongs to a module that is read"):
        read(tmp_path, tensors)


# -- fused tensors ----------------------------------------------------------------------------

BLOCK = "transformer.transformer_blocks.0"
SINGLE = "transformer.single_transformer_blocks.0"
OUT = "transformer.norm_out.linear"
WIDTH = 8
FLUX: Mapping[str, torch.Tensor] = {
    name: draw(seed, *shape).float()
    for seed, (name, shape) in enumerate(
        {
            **{f"{BLOCK}.attn.to_{part}.weight": (WIDTH, WIDTH) for part in "qkv"},
            **{f"{BLOCK}.attn.to_{part}.bias": (WIDTH,) for part in "qkv"},
            **{f"{SINGLE}.attn.to_{part}.weight": (WIDTH, WIDTH) for part in "qkv"},
            f"{SINGLE}.proj_mlp.weight": (4 * WIDTH, WIDTH),
            f"{OUT}.weight": (2 * WIDTH, WIDTH),
        }.items()
    )
}
QKV = "double_blocks.0.img_attn.qkv"
FUSED = {
    QKV: [f"{BLOCK}.attn.to_{part}" for part in "qkv"],
    "single_blocks.0.linear1": [
        *(f"{SINGLE}.attn.to_{part}" for part in "qkv"),
        f"{SINGLE}.proj_mlp",
    ],
}


def fused_weight(names: list[str]) -> torch.Tensor:
    return torch.cat([FLUX[f"{name}.weight"] for name in names]).double()


def assert_stacked(delta: Any, names: list[str], expected: torch.Tensor) -> None:
    start = 0
    for name in names:
        found = delta.updates[f"{name}.weight"].dense()
        assert_close(found, expected[start : start + len(found)])
        start += len(found)
    assert start == len(expected)


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
@pytest.mark.parametrize("form", ["lora", "loha", "lokr", "full"])
@pytest.mark.parametrize("theirs", sorted(FUSED))
def test_a_fused_module_goes_to_ours_row_by_row(
    theirs: str, form: str, prefix: str, tmp_path: Path
) -> None:
    names = FUSED[theirs]
    tensors, update = MAKERS[form](fused_weight(names).shape, 3, 1.0)
    stem = prefix + (theirs.replace(".", "_") if prefix == "lora_unet_" else theirs)
    delta = read(tmp_path, {f"{stem}.{role}": value for role, value in tensors.items()}, FLUX)
    assert_stacked(delta, names, update)
    assert delta.format == form


@pytest.mark.parametrize("rows", [True, False])
def test_a_fused_dora(rows: bool, tmp_path: Path) -> None:
    names = FUSED[QKV]
    weight = fused_weight(names)
    tensors, update = lora(weight.shape, 2, 1.0)
    magnitude = draw(9, len(weight) if rows else WIDTH).abs() + 0.5
    shape = (-1, 1) if rows else (1, -1)
    tensors["dora_scale"] = magnitude.reshape(shape)
    delta = read(tmp_path, {f"{QKV}.{role}": value for role, value in tensors.items()}, FLUX)
    moved = weight + update
    length = moved.norm(dim=1 if rows else 0)
    assert_stacked(delta, names, (magnitude / length).reshape(shape) * moved - weight)


def test_a_fused_rotation_and_its_bias(tmp_path: Path) -> None:
    names = FUSED[QKV]
    weight = fused_weight(names)
    blocks = draw(1, len(weight) // 6, 6, 6, size=0.2).float().double()  # across our borders
    skew = blocks - blocks.mT
    unit = torch.eye(6, dtype=torch.float64)
    turns = (unit + skew) @ torch.linalg.inv(unit - skew)
    bias = draw(2, len(weight))
    delta = read(tmp_path, {f"{QKV}.oft_blocks": blocks, f"{QKV}.diff_b": bias}, FLUX)
    assert_stacked(delta, names, torch.block_diag(*turns).T @ weight - weight)
    for number, name in enumerate(names):
        part = bias[number * WIDTH : (number + 1) * WIDTH]
        assert_close(delta.updates[f"{name}.bias"].dense(), part)


@pytest.mark.parametrize("form", ["lora", "lokr", "full"])
def test_swapped_halves_are_swapped_back(form: str, tmp_path: Path) -> None:
    tensors, update = MAKERS[form](FLUX[f"{OUT}.weight"].shape, 2, 1.0)
    stem = "final_layer.adaLN_modulation.1"
    delta = read(tmp_path, {f"{stem}.{role}": value for role, value in tensors.items()}, FLUX)
    expected = torch.cat([update[WIDTH:], update[:WIDTH]])
    assert_close(delta.updates[f"{OUT}.weight"].dense(), expected)


def test_a_fused_checkpoint_is_cut_row_by_row(tmp_path: Path) -> None:
    weights = {
        f"{theirs}.weight": fused_weight(names) + draw(7, len(fused_weight(names)), WIDTH)
        for theirs, names in FUSED.items()
    }
    bias = draw(5, 3 * WIDTH)
    delta = read(tmp_path, {**weights, f"{QKV}.bias": bias}, FLUX)
    assert delta.format == "checkpoint"
    for theirs, names in FUSED.items():
        assert_stacked(delta, names, weights[f"{theirs}.weight"] - fused_weight(names))
    found = delta.updates[f"{BLOCK}.attn.to_k.bias"].dense()
    assert_close(found, bias[WIDTH : 2 * WIDTH] - FLUX[f"{BLOCK}.attn.to_k.bias"].double())


def test_fused_and_single_keys_of_one_parameter_are_refused(tmp_path: Path) -> None:
    tensors, _ = lora(torch.Size((3 * WIDTH, WIDTH)), 2, 1.0)
    single, _ = lora(torch.Size((WIDTH, WIDTH)), 2, 1.0)
    both = {f"{QKV}.{role}": value for role, value in tensors.items()}
    both |= {f"{BLOCK}.attn.to_k.{role}": value for role, value in single.items()}
    with pytest.raises(DamagedFile, match="another key changes"):
        read(tmp_path, both, FLUX)
