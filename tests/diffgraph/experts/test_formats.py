"""Every format against the dense formula in float64, for any ranks, alphas and kernels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffgraph.errors import DamagedFile, FamilyMismatch
from diffgraph.experts.formats import ADAPTERS, dora
from diffgraph.experts.reading import read_delta
from diffgraph.experts.updates import norm

PARAMETERS = {
    "unet.mid_block.attentions.0.to_q.weight": torch.linspace(-1, 1, 24 * 12).reshape(24, 12),
    "unet.mid_block.resnets.0.conv1.weight": torch.linspace(-1, 1, 16 * 8 * 9).reshape(16, 8, 3, 3),
    "unet.mid_block.resnets.0.conv_shortcut.weight": torch.linspace(1, 2, 128).reshape(16, 8, 1, 1),
}
NAMES = st.sampled_from(sorted(PARAMETERS))
RANKS = st.integers(1, 9)
ALPHAS = st.one_of(st.none(), st.floats(0.25, 32, width=16))
any_file = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stem_of(name: str) -> str:
    return "lora_unet_" + name.removeprefix("unet.").removesuffix(".weight").replace(".", "_")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(
    folder: Path, name: str, tensors: Mapping[str, torch.Tensor], alpha: float | None = None
) -> tuple[str, torch.Tensor]:
    """Write tensors for one module with kohya's keys, and return its format and dense update."""
    stem = stem_of(name)
    keyed = {f"{stem}.{role}": value.float().contiguous() for role, value in tensors.items()}
    if alpha is not None:
        keyed[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(keyed, folder / "expert.safetensors")
    delta = read_delta(folder / "expert.safetensors", PARAMETERS)
    assert list(delta.updates) == [name]
    assert norm(delta.updates[name]) == pytest.approx(float(delta.updates[name].dense().norm()))
    return delta.format, delta.updates[name].dense()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * scale)


@any_file
@given(name=NAMES, rank=RANKS, alpha=ALPHAS)
def test_lora(name: str, rank: int, alpha: float | None, tmp_path: Path) -> None:
    shape = PARAMETERS[name].shape
    up, down = draw(1, shape[0], rank), draw(2, rank, *shape[1:])
    ones = (1,) * (len(shape) - 2)
    tensors = {"lora_up.weight": up.reshape(*up.shape, *ones), "lora_down.weight": down}
    form, found = read(tmp_path, name, tensors, alpha)
    scale = 1 if alpha is None else alpha / rank
    assert_close(found, scale * torch.einsum("or,r...->o...", up, down))
    assert form == ("locon" if "conv1" in name else "lora")


@any_file
@given(outer=RANKS, inner=RANKS, alpha=ALPHAS)
def test_locon_in_tucker_form(outer: int, inner: int, alpha: float | None, tmp_path: Path) -> None:
    name = "unet.mid_block.resnets.0.conv1.weight"
    shape = PARAMETERS[name].shape
    up, mid, down = (
        draw(1, shape[0], outer, 1, 1),
        draw(2, outer, inner, 3, 3),
        draw(3, inner, 8, 1, 1),
    )
    tensors = {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down}
    _, found = read(tmp_path, name, tensors, alpha)
    scale = 1 if alpha is None else alpha / inner
    assert_close(
        found, scale * torch.einsum("mnkl,om,ni->oikl", mid, up[..., 0, 0], down[..., 0, 0])
    )


@any_file
@given(name=NAMES, rank=RANKS, alpha=ALPHAS)
def test_loha(name: str, rank: int, alpha: float | None, tmp_path: Path) -> None:
    shape = PARAMETERS[name].shape
    width = shape[1:].numel()
    a1, b1, a2, b2 = (
        draw(seed, *size) for seed, size in enumerate([(shape[0], rank), (rank, width)] * 2)
    )
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    form, found = read(tmp_path, name, tensors, alpha)
    scale = 1 if alpha is None else alpha / rank
    assert_close(found, (scale * (a1 @ b1) * (a2 @ b2)).reshape(shape))
    assert form == "loha"


@any_file
@given(rank=RANKS, alpha=ALPHAS)
def test_loha_in_tucker_form(rank: int, alpha: float | None, tmp_path: Path) -> None:
    name = "unet.mid_block.resnets.0.conv1.weight"
    t1, t2 = draw(1, rank, rank, 3, 3), draw(2, rank, rank, 3, 3)
    a1, b1, a2, b2 = (draw(seed, rank, size) for seed, size in enumerate([16, 8] * 2))
    tensors = {"hada_t1": t1, "hada_w1_a": a1, "hada_w1_b": b1}
    tensors |= {"hada_t2": t2, "hada_w2_a": a2, "hada_w2_b": b2}
    _, found = read(tmp_path, name, tensors, alpha)
    halves = [torch.einsum("abkl,bj,ao->ojkl", t, b, a) for t, a, b in ((t1, a1, b1), (t2, a2, b2))]
    scale = 1 if alpha is None else alpha / rank
    assert_close(found, scale * halves[0] * halves[1])


@any_file
@given(name=NAMES, rank=RANKS, alpha=ALPHAS, left=st.booleans(), right=st.booleans())
def test_lokr(
    name: str, rank: int, alpha: float | None, left: bool, right: bool, tmp_path: Path
) -> None:
    """Each side whole or a product; the scale is 1 when both are whole, whatever alpha says."""
    shape = PARAMETERS[name].shape
    rows, columns, kernel = shape[0] // 4, shape[1] // 2, shape[2:]
    if left:
        first = draw(1, 4, 2)
        tensors = {"lokr_w1": first}
    else:
        tensors = {"lokr_w1_a": draw(1, 4, rank), "lokr_w1_b": draw(2, rank, 2)}
        first = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if right:
        second = draw(3, rows, columns, *kernel)
        tensors["lokr_w2"] = second
    else:
        tensors["lokr_w2_a"] = draw(3, rows, rank)
        tensors["lokr_w2_b"] = draw(4, rank, columns * kernel.numel())
        second = (tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]).reshape(rows, columns, *kernel)
    form, found = read(tmp_path, name, tensors, alpha)
    scale = 1 if alpha is None or (left and right) else alpha / rank
    expected = torch.einsum("ac,bd...->abcd...", first, second).reshape(shape)
    assert_close(found, scale * expected)
    assert form == "lokr"


@any_file
@given(name=NAMES, rank=RANKS, alpha=ALPHAS, rows=st.booleans())
def test_dora(name: str, rank: int, alpha: float | None, rows: bool, tmp_path: Path) -> None:
    weight = PARAMETERS[name].double()
    shape = weight.shape
    ones = (1,) * (len(shape) - 2)
    up, down = draw(1, shape[0], rank), draw(2, rank, *shape[1:])
    magnitude = draw(3, shape[0] if rows else shape[1]).abs() + 0.5
    tensors = {
        "lora_up.weight": up.reshape(*up.shape, *ones),
        "lora_down.weight": down,
        "dora_scale": magnitude.reshape(*((-1, 1) if rows else (1, -1)), *ones),
    }
    form, found = read(tmp_path, name, tensors, alpha)
    scale = 1 if alpha is None else alpha / rank
    moved = weight + scale * torch.einsum("or,r...->o...", up, down)
    axis = 0 if rows else 1
    length = moved.movedim(axis, 0).flatten(1).norm(dim=1)
    factor = (magnitude / length).reshape(*((-1, 1) if rows else (1, -1)), *ones)
    assert_close(found, factor * moved - weight)
    assert form == "dora"


def test_a_product_of_another_shape_is_another_family(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.to_q.weight"
    tensors: dict[str, Any] = {
        "lora_up.weight": draw(1, 24, 2),
        "lora_down.weight": draw(2, 2, 768),
    }
    with pytest.raises(FamilyMismatch, match=r"to_q.*\(24, 768\).*\(24, 12\)"):
        read(tmp_path, name, tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_factors_in_half_precision_are_multiplied_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    name = "unet.mid_block.attentions.0.to_q.weight"
    up, down = draw(1, 24, 3).to(dtype), draw(2, 3, 12).to(dtype)
    stem = stem_of(name)
    save_file(
        {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}, tmp_path / "x.safetensors"
    )
    found = read_delta(tmp_path / "x.safetensors", PARAMETERS).updates[name].dense()
    assert_close(found, up.double() @ down.double())


TO_OUT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
TO_QUERY = "text_encoder.encoder.layers.0.self_attn.q_proj"
KEYS = {
    "kohya": (TO_OUT, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"),
    "kohya, single file": (
        TO_OUT,
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_out_0",
    ),
    "kohya, text": (TO_QUERY, "lora_te_text_model_encoder_layers_0_self_attn_q_proj"),
    "diffusers": (TO_OUT, TO_OUT),
    "diffusers, text": (TO_QUERY, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"),
    "PEFT": (TO_OUT, f"base_model.model.{TO_OUT.removeprefix('unet.')}"),
    "bare": (TO_OUT, TO_OUT.removeprefix("unet.")),
}
SUFFIXES = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "PEFT": ("lora_A.weight", "lora_B.weight"),
    "PEFT with its adapter's name": ("lora_A.default.weight", "lora_B.default.weight"),
    "diffusers 0.2x": ("lora.down.weight", "lora.up.weight"),
    "diffusers 0.19": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


@pytest.mark.parametrize(("name", "stem"), KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("suffixes", SUFFIXES.values(), ids=SUFFIXES.keys())
def test_every_way_of_naming_a_module(
    name: str, stem: str, suffixes: tuple[str, str], tiny_model: Any, tmp_path: Path
) -> None:
    parameters = tiny_model.parameters()
    shape = parameters[f"{name}.weight"].shape
    up, down = draw(1, shape[0], 2), draw(2, 2, shape[1])
    tensors = {f"{stem}.{suffixes[0]}": down, f"{stem}.{suffixes[1]}": up}
    save_file({key: value.float() for key, value in tensors.items()}, tmp_path / "x.safetensors")
    delta = read_delta(tmp_path / "x.safetensors", parameters)
    assert_close(delta.updates[f"{name}.weight"].dense(), up @ down)


def test_the_oldest_diffusers_names(tiny_model: Any, tmp_path: Path) -> None:
    parameters = tiny_model.parameters()
    shape = parameters[f"{TO_OUT}.weight"].shape
    stem = TO_OUT.replace("to_out.0", "processor.to_out_lora")
    up, down = draw(1, shape[0], 2), draw(2, 2, shape[1])
    tensors = {f"{stem}.down.weight": down.float(), f"{stem}.up.weight": up.float()}
    save_file(tensors, tmp_path / "x.safetensors")
    delta = read_delta(tmp_path / "x.safetensors", parameters)
    assert_close(delta.updates[f"{TO_OUT}.weight"].dense(), up @ down)


def test_no_two_formats_claim_the_same_keys() -> None:
    roles = {role for form in ADAPTERS for role in form.suffixes.values()}
    for form in ADAPTERS:
        assert set(form.marks) <= roles, form.name
        for other in ADAPTERS:
            if other is not form:
                assert not set(form.suffixes) & {*other.suffixes, *dora.SUFFIXES, ".alpha"}


@pytest.mark.parametrize("alpha", [2.0**62, -1e30, 1e38])
def test_a_strength_that_no_merge_can_hold_is_refused(alpha: float, tmp_path: Path) -> None:
    tensors = {"lora_up.weight": draw(1, 24, 2), "lora_down.weight": draw(2, 2, 12)}
    with pytest.raises(DamagedFile, match=r"alpha of .* at rank 2 is no strength"):
        read(tmp_path, tensors=tensors, name=next(iter(PARAMETERS)), alpha=alpha)
