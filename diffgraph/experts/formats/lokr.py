"""LoKr: a Kronecker product of two small weights, each whole or a low-rank product itself.

https://arxiv.org/abs/2309.14859, as LyCORIS and PEFT write it. When both are whole they show no
rank: PEFT states it, and LyCORIS stores an alpha that means nothing, so the scale is 1.
"""

import math

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile
from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import KroneckerUpdate

MATRIX = 2


def build(parts: ModuleTensors, base: Tensor) -> KroneckerUpdate:
    """Return `scale * kron(w1, w2)`, `w2` carrying a convolution's kernel."""
    shape = base.shape
    kernel = tuple(shape[2:])
    left, left_rank = _left(parts)
    right, right_rank = _right(parts, kernel)
    rows, columns = left.shape[0] * right.shape[0], left.shape[1] * right.shape[1]
    parts.fits((rows, columns, *right.shape[2:]), shape)
    rank = right_rank or left_rank or parts.rank
    scale = parts.scale(rank) if rank else 1.0
    return KroneckerUpdate(left, right, scale, shape)


def _left(parts: ModuleTensors) -> tuple[Tensor, int]:
    if "lokr_w1" in parts:
        return parts.matrix("lokr_w1"), 0
    first, second = parts.product("lokr_w1_a", "lokr_w1_b")
    _bounded(parts, first.shape[0] * second.shape[1], ())
    return first.float() @ second.float(), second.shape[0]


def _right(parts: ModuleTensors, kernel: tuple[int, ...]) -> tuple[Tensor, int]:
    if "lokr_w2" in parts:
        return _with_kernel(parts, parts.matrix("lokr_w2"), kernel), 0
    if "lokr_t2" in parts:
        core = parts["lokr_t2"]
        first, second = parts.matrix("lokr_w2_a"), parts.matrix("lokr_w2_b")
        parts.agree("lokr_w2_a and lokr_t2", first.shape[0], core.shape[0])
        parts.agree("lokr_t2 and lokr_w2_b", core.shape[1], second.shape[0])
        _bounded(parts, first.shape[1] * second.shape[1], kernel)
        whole = torch.einsum("mn...,mp,nq->pq...", core.float(), first.float(), second.float())
        return whole, second.shape[0]
    first, second = parts.product("lokr_w2_a", "lokr_w2_b")
    _bounded(parts, first.shape[0] * second.shape[1], ())
    return _with_kernel(parts, first.float() @ second.float(), kernel), second.shape[0]


def _with_kernel(parts: ModuleTensors, matrix: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Return (rows, columns * kernel) as (rows, columns, *kernel)."""
    if not kernel:
        return matrix
    if matrix.shape[1] % math.prod(kernel):
        raise DamagedFile(f"{parts.where}: lokr_w2 does not hold a kernel of {kernel}")
    return matrix.reshape(matrix.shape[0], -1, *kernel)


MAX_ENTRIES = 1 << 28  # more than the right factor of any known model's weight


def _bounded(parts: ModuleTensors, entries: int, kernel: tuple[int, ...]) -> None:
    if entries * math.prod(kernel) > MAX_ENTRIES:
        raise DamagedFile(f"{parts.where}: its factors make a huge product")


ROLES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

LOKR = AdapterFormat(
    name="lokr", suffixes={f".{role}": role for role in ROLES}, marks=ROLES, build=build
)
