"""The kernels against the formula in float64; without a GPU by Triton's interpreter.

Where Triton is missing they cannot run: it comes with CUDA builds of torch only.
"""

import importlib.util
import os
from typing import Any

import numpy as np
import pytest
import torch

from diffgraph.experts.updates import (
    CheckpointUpdate,
    DenseUpdate,
    HadamardUpdate,
    LowRankUpdate,
    Update,
)
from diffgraph.merging import fused
from diffgraph.merging.fused import FusedWriter, Row

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are compiled
    DEVICE = "cpu"
else:
    DEVICE = "cuda"

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which CUDA builds bring"
)
SHAPES = {"linear": (72, 136), "kernel": (40, 16, 3, 3), "bias": (40,), "odd": (4,), "free": (8, 8)}


class Experts:
    """Random numbers for a model of a few parameters."""

    def __init__(self, dtype: torch.dtype = torch.float32, factor: torch.dtype = torch.float16):
        self.draws, self.factor = torch.Generator().manual_seed(1), factor
        self.base = {name: self.draw(*shape).to(dtype) for name, shape in SHAPES.items()}
        self.updates: list[dict[str, Update]] = [
            {
                "linear": self.whole("linear", torch.float16),
                "kernel": self.whole("kernel", torch.bfloat16),
                "bias": self.whole("bias", torch.float32),
                "odd": DenseUpdate(self.draw(4)),
            },
            {"linear": self.low_rank("linear", 8)},
            {
                "kernel": self.low_rank("kernel", 33),
                "linear": self.low_rank("linear", 4),
                "free": HadamardUpdate(
                    self.draw(8, 2), self.draw(2, 8), self.draw(8, 2), self.draw(2, 8), 1.0,
                    torch.Size((8, 8)),
                ),
            },
            {"bias": DenseUpdate(self.draw(40).half()), "linear": DenseUpdate(self.draw(72, 136))},
        ]  # fmt: skip

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.draws).to(DEVICE)

    def low_rank(self, name: str, rank: int) -> LowRankUpdate:
        shape = torch.Size(SHAPES[name])
        up, down = self.draw(shape[0], rank), self.draw(rank, shape[1:].numel())
        return LowRankUpdate(up.to(self.factor) / 8, down.to(self.factor) / 8, 0.5, shape)

    def whole(self, name: str, dtype: torch.dtype) -> CheckpointUpdate:
        value = self.base[name].float() + 0.1 * self.draw(*SHAPES[name])
        return CheckpointUpdate(value.to(dtype), self.base[name])

    def formula(self, name: str, coefficients: list[float]) -> torch.Tensor:
        total = self.base[name].double()
        for value, updates in zip(coefficients, self.updates, strict=True):
            if name in updates:
                total = total + value * updates[name].dense().double()
        return total


def written(experts: Experts, coefficients: list[list[float]]) -> tuple[list[Any], list[str]]:
    """Return the weights of several models, NaN where nothing was written, and what was left."""
    models = [
        {name: torch.full_like(value, torch.nan) for name, value in experts.base.items()}
        for _ in coefficients
    ]
    writer = FusedWriter(experts.base, models)
    rows = [Row(updates, experts.base) for updates in experts.updates]
    left = writer.write(rows, np.array(coefficients), np.ones(len(SHAPES), bool))
    return models, [name for name, is_left in zip(SHAPES, left, strict=True) if is_left]


@needs_triton
@pytest.mark.parametrize("factor", [torch.float16, torch.float32])
def test_kernels_write_the_formula_for_several_models(factor: torch.dtype) -> None:
    experts = Experts(factor=factor)
    coefficients = [[0.7, -0.5, 1.3, 0.25], [0.0, 1.0, 0.0, -2.0], [1.0, 0.0, 0.0, 0.0]]
    models, left = written(experts, coefficients)
    assert left == ["odd", "free"]  # a row that is too short, and a kind that is not a sum
    for weights, own in zip(models, coefficients, strict=True):
        for name in ("linear", "kernel", "bias"):
            expected = experts.formula(name, own)
            torch.testing.assert_close(weights[name].double(), expected, rtol=1e-5, atol=1e-5)
        assert weights["odd"].isnan().all()


@needs_triton
def test_half_precision_is_rounded_once() -> None:
    experts = Experts(torch.float16)
    own = [0.7, -0.5, 1.3, 0.25]
    models, _ = written(experts, [own])
    for name in ("linear", "kernel", "bias"):
        nearest = experts.formula(name, own).half()
        assert (models[0][name] != nearest).double().mean() < 0.01  # ties of float32 with float64


def test_a_row_says_where_updates_lie_and_what_kernels_cannot_read() -> None:
    experts = Experts()
    row = Row(experts.updates[2], experts.base)
    names = list(SHAPES)
    assert [name for name, hit in zip(names, row.touched, strict=True) if hit] == [
        "linear",
        "kernel",
        "free",
    ]
    assert [name for name, hit in zip(names, row.plain, strict=True) if hit] == ["free"]
    assert row.ranks.tolist() == [4, 33, 0, 0, 0]
    update = experts.updates[2]["linear"]
    assert isinstance(update, LowRankUpdate)
    assert row.ups[0] == update.up.data_ptr()
    turned = LowRankUpdate(update.up, update.down.T.contiguous().T, 0.5, update.shape)
    assert Row({"linear": turned}, experts.base).plain[0]  # its numbers lie in another order


def test_tiles_cover_every_number_once() -> None:
    sizes, mask = np.array([[5, 70], [64, 64], [1, 9]], np.int32), np.array([True, True, False])
    tiles = fused._tiles(sizes, mask, 4, 32)
    seen = [np.zeros(tuple(size), int) for size in sizes]
    for slot, row, column in tiles:
        seen[slot][4 * row : 4 * row + 4, 32 * column : 32 * column + 32] += 1
    assert [bool((count == 1).all()) for count in seen] == [True, True, False]
    blocks = fused._blocks(sizes, mask, 100)
    assert [int((blocks[:, 0] == slot).sum()) for slot in range(3)] == [4, 41, 0]
    assert blocks[:4, 1].tolist() == [0, 1, 2, 3]
