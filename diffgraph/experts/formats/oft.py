"""OFT: groups of a weight's rows or columns are rotated.

https://arxiv.org/abs/2306.07280. A rotation is the Cayley transform of a skew matrix Q, and what is
added to the weight comes from R - I = 2Q (I - Q)^-1 directly: no large numbers that nearly cancel.
LyCORIS and kohya rotate rows (outputs) and keep whole matrices; PEFT rotates columns (inputs) and
keeps what lies above the diagonal. In BOFT, https://arxiv.org/abs/2311.06243, stages of rotations
follow each other, each mixing rows further apart.
"""

import math
from functools import partial

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import DerivedUpdate

KOHYA = "oft_"
"""kohya's own OFT: what its modules' names begin with. An alpha of 0 lets nothing turn there; in
LyCORIS it means that nothing is held back."""


def build(parts: ModuleTensors, base: Tensor) -> DerivedUpdate:
    """Return what rotating blocks of rows adds: one stage (OFT) or several (BOFT)."""
    blocks = parts["oft_blocks"]
    if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
        raise DamagedFile(
            f"{parts.where}: oft_blocks is {tuple(blocks.shape)}, not a row of square blocks"
        )
    count, size = blocks.shape[-3], blocks.shape[-1]
    if count * size != base.shape[0]:
        raise FamilyMismatch(
            f"{parts.where} turns {count * size} rows, "
            f"the base model's weight is {tuple(base.shape)}"
        )
    if blocks.ndim == 4 and (size % 2 or 2 ** (len(blocks) - 1) * size > len(base)):
        raise DamagedFile(
            f"{parts.where}: {len(blocks)} stages of {size} rows do not fit {len(base)} rows"
        )
    limit = math.inf if parts.alpha is None else parts.alpha * base.shape[0]
    if limit <= 0 and not parts.module.startswith(KOHYA):
        limit = math.inf
    rescale = (parts.vector("rescale", len(base)),) if "rescale" in parts else ()
    change = _turned_rows if blocks.ndim == 3 else _turned_in_stages
    return DerivedUpdate(partial(change, limit=limit), (blocks, *rescale), base)


def build_peft(parts: ModuleTensors, base: Tensor) -> DerivedUpdate:
    """Return what rotating blocks of columns adds; PEFT's settings, or its defaults, say how."""
    above = parts.matrix("oft_R")
    size = (1 + math.isqrt(1 + 8 * above.shape[1])) // 2
    columns = math.prod(base.shape[1:])
    if size * (size - 1) // 2 != above.shape[1] or columns % size:
        raise FamilyMismatch(
            f"{parts.where}: oft_R is {tuple(above.shape)}: no blocks of "
            f"columns for a weight of shape {tuple(base.shape)}"
        )
    if len(above) not in (1, columns // size):
        raise FamilyMismatch(
            f"{parts.where} turns {len(above) * size} columns, "
            f"the base model's weight is {tuple(base.shape)}"
        )
    change = partial(_turned_columns, terms=_terms(parts), limit=_coft(parts, len(above)))
    return DerivedUpdate(change, (above,), base)


def _terms(parts: ModuleTensors) -> int:
    """Return how many terms of a series stand for the Cayley transform; 0: it is exact."""
    if parts.settings.get("use_cayley_neumann", True) is False:
        return 0
    terms = parts.settings.get("num_cayley_neumann_terms", 5)
    if not isinstance(terms, int) or not 1 <= terms <= 100:
        raise UnknownFormat(f"{parts.file}: its num_cayley_neumann_terms is not a small number")
    return terms


def _coft(parts: ModuleTensors, blocks: int) -> float:
    """Return the norm that no block of a constrained OFT exceeds."""
    if not parts.settings.get("coft", False):
        return math.inf
    room = parts.settings.get("eps", 6e-5)
    if not isinstance(room, int | float) or not room >= 0:
        raise UnknownFormat(f"{parts.file}: its eps is not a number")
    return room / math.sqrt(blocks)


def _turns(skew: Tensor) -> Tensor:
    """Return R - I of the Cayley transform R = (I + Q)(I - Q)^-1, block by block, in float64.

    I - Q can always be inverted, but for numbers that are too large: those blocks become NaN.
    """
    unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    turns, failed = torch.linalg.solve_ex(unit - skew, 2 * skew)
    whole: Tensor = turns.masked_fill(failed.bool()[..., None, None], math.nan)
    return whole


def _skew(blocks: Tensor, limit: float) -> Tensor:
    """Return Q = X - X^T in float64, its norm over all blocks brought down to the limit."""
    wide = blocks.double()
    skew = wide - wide.mT
    size = float(torch.linalg.vector_norm(skew))
    return skew * (limit / size) if size > limit else skew


def _rescaled(change: Tensor, base: Tensor, rescale: Tensor | None) -> Tensor:
    if rescale is None:
        return change
    factor = rescale.float().reshape(-1, *(1,) * (base.ndim - 1))
    return factor * change + (factor - 1) * base


def _turned_rows(
    base: Tensor, blocks: Tensor, rescale: Tensor | None = None, *, limit: float
) -> Tensor:
    """Return `R^T W - W` for each block of rows."""
    turns = _turns(_skew(blocks, limit)).mT.to(base.dtype)
    rows = base.reshape(blocks.shape[0], blocks.shape[1], -1)
    return _rescaled((turns @ rows).reshape(base.shape), base, rescale)


def _turned_in_stages(
    base: Tensor, blocks: Tensor, rescale: Tensor | None = None, *, limit: float
) -> Tensor:
    """Return what the stages of a butterfly add, one after the other."""
    turns = _turns(_skew(blocks, limit)).to(base.dtype)
    size = blocks.shape[-1]
    change = torch.zeros_like(base)
    for stage, turn in enumerate(turns):
        apart = 2**stage * size // 2  # rows of one block lie so far apart, two by two
        shape = (-1, 2, apart, base[0].numel())
        rows = (base + change).reshape(shape).transpose(1, 2)
        added = turn @ rows.reshape(-1, size, base[0].numel())
        added = added.reshape(-1, apart, 2, base[0].numel()).transpose(1, 2)
        change = change + added.reshape(base.shape)
    return _rescaled(change, base, rescale)


def _turned_columns(base: Tensor, above: Tensor, *, terms: int, limit: float) -> Tensor:
    """Return `W R^T - W` for each block of columns."""
    size = (1 + math.isqrt(1 + 8 * above.shape[1])) // 2
    skew = above.new_zeros(len(above), size, size, dtype=torch.float64)
    rows, columns = torch.triu_indices(size, size, 1, device=above.device)
    skew[:, rows, columns] = above.double()
    skew = skew - skew.mT
    if limit < math.inf:
        norms = torch.linalg.matrix_norm(skew, keepdim=True)
        skew = skew * (limit / norms.clamp_min(limit)) if limit else skew * 0
    turns = (_series(skew, terms) if terms else _turns(-skew)).to(base.dtype)
    blocks = base.reshape(len(base), -1, size)
    return torch.einsum("obk,bck->obc", blocks, turns.expand(blocks.shape[1], -1, -1)).reshape(
        base.shape
    )


def _series(skew: Tensor, terms: int) -> Tensor:
    """Return R - I of PEFT's series: 2Q + 2Q^2 + … and the last power once."""
    total = torch.zeros_like(skew)
    if terms < 2:
        return total
    total += 2 * skew
    if terms == 2:
        return total
    power = skew @ skew
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total += 2 * power
    return total + power @ skew


OFT = AdapterFormat(
    name="oft",
    suffixes={".oft_blocks": "oft_blocks", ".rescale": "rescale"},
    marks=("oft_blocks",),
    build=build,
    multiplies=True,
)
PEFT_OFT = AdapterFormat(
    name="oft",
    suffixes={".oft_R.weight": "oft_R"},
    marks=("oft_R",),
    build=build_peft,
    multiplies=True,
)
