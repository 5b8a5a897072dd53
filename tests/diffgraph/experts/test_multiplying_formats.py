"""Formats that multiply the base's weight, against the dense formula in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.errors import DamagedFile, FamilyMismatch
from tests.diffgraph.experts.samples import (
    ALPHAS,
    BASE,
    KERNEL,
    LINEAR,
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

MODULES = st.sampled_from([LINEAR, KERNEL, POINT, TEXT])


@any_file
@given(module=MODULES, columns=st.booleans())
def test_ia3(module: str, columns: bool, tmp_path: Path) -> None:
    weight = BASE[f"{module}.weight"].double()
    along = int(columns)
    shape = [1] * weight.ndim
    shape[along] = -1
    factor = draw(5, weight.shape[along], size=0.1)
    stored = factor if weight.ndim == 2 else factor.reshape(1, -1, 1, 1)
    tensors = {"weight": stored, "on_input": torch.tensor(along)}
    delta = read(tmp_path, keyed(module, tensors))
    assert_close(delta.updates[f"{module}.weight"].dense(), weight * factor.reshape(shape))
    assert delta.format == "ia3"


@any_file
@given(module=MODULES, rank=RANKS, inner=RANKS, alpha=ALPHAS)
def test_glora(module: str, rank: int, inner: int, alpha: float | None, tmp_path: Path) -> None:
    weight = BASE[f"{module}.weight"].double()
    out, width = weight.shape[:2]
    ones = (1,) * (weight.ndim - 2)
    a1, a2 = draw(1, width, inner), draw(2, inner, width)
    b1, b2 = draw(3, out, rank), draw(4, rank, *weight.shape[1:])
    tensors = {
        "a1.weight": a1.reshape(*a1.shape, *ones),
        "a2.weight": a2.reshape(*a2.shape, *ones),
        "b1.weight": b1.reshape(*b1.shape, *ones),
        "b2.weight": b2,
    }
    delta = read(tmp_path, keyed(module, tensors, alpha))
    scale = 1 if alpha is None else alpha / rank
    expected = torch.einsum("or,r...->o...", b1, b2)
    expected = expected + torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
    assert_close(delta.updates[f"{module}.weight"].dense(), scale * expected)
    assert delta.format == "glora"


def cayley(blocks: torch.Tensor, limit: float) -> torch.Tensor:
    skew = blocks - blocks.mT
    if skew.norm() > limit:
        skew = skew * limit / skew.norm()
    unit = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return (unit + skew) @ torch.linalg.inv(unit - skew)


@any_file
@given(
    module=MODULES,
    size=st.sampled_from([2, 4]),
    angle=st.sampled_from([1e-4, 0.1, 1.0]),
    alpha=st.sampled_from([None, 0.0, 1e-3, 0.05, 10.0]),
    rescaled=st.booleans(),
    by_kohya=st.booleans(),
)
def test_oft(
    module: str,
    size: int,
    angle: float,
    alpha: float | None,
    rescaled: bool,
    by_kohya: bool,
    tmp_path: Path,
) -> None:
    """The smallest rotations as exactly as the largest."""
    weight = BASE[f"{module}.weight"].double()
    height = len(weight)
    blocks = draw(1, height // size, size, size, size=angle).float().double()
    tensors = {"oft_blocks": blocks}
    factor = 1 + draw(2, height, size=angle).float().double()
    if rescaled:
        tensors["rescale"] = factor.reshape(-1, *(1,) * (weight.ndim - 1))
    found = keyed(module, tensors, alpha)
    if by_kohya and module != TEXT:
        found = {key.replace("lora_unet", "oft_unet"): value for key, value in found.items()}
    limit = float("inf") if alpha is None else float(torch.tensor(alpha)) * height
    if limit == 0 and not (by_kohya and module != TEXT):
        limit = float("inf")
    turned = torch.block_diag(*cayley(blocks, limit)).T @ weight.flatten(1)
    if rescaled:
        turned = factor.float().double()[:, None] * turned
    expected = turned.reshape(weight.shape) - weight
    delta = read(tmp_path, found)
    dense = delta.updates[f"{module}.weight"].dense()
    if limit == 0 and not rescaled:
        assert not dense.any()
    else:
        assert_close(dense, expected)
    assert delta.format == "oft"


@any_file
@given(module=st.sampled_from([KERNEL, POINT]), stages=st.integers(1, 3), rescaled=st.booleans())
def test_boft(module: str, stages: int, rescaled: bool, tmp_path: Path) -> None:
    """A stage turns rows that lie `apart` from each other: written out, one pair at a time."""
    weight = BASE[f"{module}.weight"].double()
    height, size = len(weight), 4
    blocks = draw(1, stages, height // size, size, size, size=0.3).float().double()
    turns = cayley(blocks.reshape(-1, size, size), float("inf")).reshape(blocks.shape)
    turned = weight.flatten(1)
    for stage in range(stages):
        apart = 2**stage * size // 2
        order = torch.arange(height).reshape(-1, 2, apart).mT.reshape(-1)
        mixed = torch.empty_like(turned)
        for number, turn in enumerate(turns[stage]):
            rows = order[number * size : (number + 1) * size]
            mixed[rows] = turn @ turned[rows]
        turned = mixed
    tensors = {"oft_blocks": blocks}
    if rescaled:
        factor = 1 + draw(2, height, size=0.1).float().double()
        tensors["rescale"] = factor.reshape(-1, 1, 1, 1)
        turned = factor[:, None] * turned
    delta = read(tmp_path, keyed(module, tensors))
    expected = turned.reshape(weight.shape) - weight
    assert_close(delta.updates[f"{module}.weight"].dense(), expected)


@any_file
@given(
    module=st.sampled_from([LINEAR, KERNEL, TEXT]),
    size=st.sampled_from([1e-4, 1e-2, 1.0]),
    rows=st.booleans(),
    rank=RANKS,
)
def test_a_small_dora_is_as_exact_as_a_large_one(
    module: str, size: float, rows: bool, rank: int, tmp_path: Path
) -> None:
    weight = BASE[f"{module}.weight"].double()
    ones = (1,) * (weight.ndim - 2)
    up = draw(1, len(weight), rank, size=size).float().double()
    down = draw(2, rank, *weight.shape[1:]).float().double()
    axis = 0 if rows else 1
    moved = weight + torch.einsum("or,r...->o...", up, down)
    length = moved.movedim(axis, 0).flatten(1).norm(dim=1)
    magnitude = (length * (1 + draw(3, len(length), size=size))).float().double()
    shape = ((-1, 1) if rows else (1, -1)) + ones
    tensors = {
        "lora_up.weight": up.reshape(*up.shape, *ones),
        "lora_down.weight": down,
        "dora_scale": magnitude.reshape(shape),
    }
    delta = read(tmp_path, keyed(module, tensors))
    expected = (magnitude / length).reshape(shape) * moved - weight
    assert_close(delta.updates[f"{module}.weight"].dense(), expected)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    stem = STEMS[LINEAR]
    with pytest.raises(FamilyMismatch, match=rf"{stem}.*turns 16 rows.*\(24, 12\)"):
        read(tmp_path, keyed(LINEAR, {"oft_blocks": draw(1, 4, 4, 4)}))
    with pytest.raises(DamagedFile, match="not a row of square blocks"):
        read(tmp_path, keyed(LINEAR, {"oft_blocks": draw(1, 6, 4, 5)}))
    with pytest.raises(DamagedFile, match="stages"):
        read(tmp_path, keyed(KERNEL, {"oft_blocks": draw(1, 9, 4, 4, 4)}))
    with pytest.raises(FamilyMismatch, match=r"ia3_weight is \(7,\).*24 numbers"):
        read(tmp_path, keyed(LINEAR, {"weight": draw(1, 7), "on_input": torch.tensor(0)}))
    with pytest.raises(DamagedFile, match="on_input is not one number"):
        read(tmp_path, keyed(LINEAR, {"weight": draw(1, 24), "on_input": torch.tensor([0, 1])}))
    with pytest.raises(DamagedFile, match="lacks its ia3_weight"):
        read(tmp_path, keyed(LINEAR, {"on_input": torch.tensor(0)}))
    glora = {"a1.weight": draw(1, 9, 2), "a2.weight": draw(2, 2, 12)}
    glora |= {"b1.weight": draw(3, 24, 2), "b2.weight": draw(4, 2, 12)}
    with pytest.raises(FamilyMismatch, match=r"\(24, 9\)"):
        read(tmp_path, keyed(LINEAR, glora))
