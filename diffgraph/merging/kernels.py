# A language of its own in Python's syntax: its compiler checks the types.
# mypy: ignore-errors
"""How does a GPU sum every parameter of a merge in two launches?

A program makes one tile of one parameter of one model: it reads the base and each expert once, sums
in float32 and rounds once on writing. Low-rank factors are multiplied on the matrix units, where
products of half-precision numbers are exact. Tables of addresses, one row an expert and one column
a parameter, say where everything lies, so that weights stay where the model has them.

Only this file needs Triton (https://triton-lang.org); it comes with CUDA builds of torch.
"""

import triton
import triton.language as tl

BLOCK, WARPS = 4096, 8  # entries that a program of `sum_whole` makes
ROWS, COLUMNS, RANKS, TILE_WARPS = 64, 64, 32, 4  # a tile of `sum_low_rank`
FREE = ["experts", "adapters", "slots"]  # sizes that need no kernel of their own


@triton.jit
def _at(address, kind: tl.constexpr):
    """Return a pointer to numbers of a type, known to be aligned so that loads are wide."""
    return tl.multiple_of(address.to(tl.pointer_type(kind)), 16)


@triton.jit
def _read(address, at, inside, kind: tl.constexpr):
    return tl.load(_at(address, kind) + at, mask=inside, other=0).to(tl.float32)


@triton.jit
def _sum(  # noqa: PLR0913 (tables, as the kernels have them)
    base, at, inside, slot, whole, codes, factors, experts, slots
):
    """Return the base plus each expert's weights, or their difference from it, times a factor."""
    total = base
    for expert in range(experts):
        place = expert * slots + slot
        factor = tl.load(factors + tl.program_id(1) * experts * slots + place)
        if factor != 0:
            address = tl.load(whole + place)
            code = tl.load(codes + place)
            if code % 4 == 0:
                value = _read(address, at, inside, tl.float16)
            elif code % 4 == 1:
                value = _read(address, at, inside, tl.bfloat16)
            else:
                value = _read(address, at, inside, tl.float32)
            # the difference first: where the two are close it is exact, their multiples are not
            total += factor * (value - tl.where(code >= 4, base, 0.0))
    return total


@triton.jit(do_not_specialize=FREE)
def sum_whole(  # noqa: PLR0913
    tiles,  # (tiles, 2): slot, number of the block
    sizes,  # (slots,): rows and columns
    base,  # (slots,): addresses of the untouched weights
    live,  # (models, slots): of those to write
    whole,  # (experts, slots): addresses
    codes,  # (experts, slots): 0 float16, 1 bfloat16, 2 float32; 4 more: less the base
    factors,  # (models, experts, slots)
    experts,
    slots,
    DTYPE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Make one block of a parameter that only whole weights reach."""
    tile = tl.program_id(0)
    slot = tl.load(tiles + 2 * tile)
    size = tl.load(sizes + 2 * slot) * tl.multiple_of(tl.load(sizes + 2 * slot + 1), 8)
    at = tl.load(tiles + 2 * tile + 1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    value = _read(tl.load(base + slot), at, inside, DTYPE)
    total = _sum(value, at, inside, slot, whole, codes, factors, experts, slots)
    place = tl.load(live + tl.program_id(1) * slots + slot)
    tl.store(_at(place, DTYPE) + at, total.to(DTYPE), mask=inside)


@triton.jit(do_not_specialize=FREE)
def sum_low_rank(  # noqa: PLR0913
    tiles,  # (tiles, 3): slot, number of the row and of the column of tiles
    sizes,
    base,
    live,
    whole,
    codes,
    factors,
    experts,
    slots,
    ups,  # (adapters, slots): addresses of (rows, rank)
    downs,  # (adapters, slots): addresses of (rank, columns)
    ranks,  # (adapters, slots): 0 where an adapter has nothing
    strengths,  # (models, adapters, slots)
    adapters,
    DTYPE: tl.constexpr,  # noqa: N803
    FACTOR: tl.constexpr,  # noqa: N803
    EVEN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    RANKS: tl.constexpr,  # noqa: N803
):
    """Make one tile of a parameter that low-rank updates reach, whole weights too perhaps."""
    tile = tl.program_id(0)
    slot = tl.load(tiles + 3 * tile)
    height = tl.load(sizes + 2 * slot)
    width = tl.multiple_of(tl.load(sizes + 2 * slot + 1), 8)
    row = tl.load(tiles + 3 * tile + 1) * ROWS + tl.arange(0, ROWS)
    column = tl.load(tiles + 3 * tile + 2) * COLUMNS + tl.arange(0, COLUMNS)
    added = tl.zeros((ROWS, COLUMNS), tl.float32)
    for adapter in range(adapters):
        place = adapter * slots + slot
        rank = tl.load(ranks + place)
        if EVEN:
            rank = tl.multiple_of(rank, 8)
        strength = tl.load(strengths + tl.program_id(1) * adapters * slots + place)
        up, down = _at(tl.load(ups + place), FACTOR), _at(tl.load(downs + place), FACTOR)
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, rank, RANKS):
            middle = first + tl.arange(0, RANKS)
            left = tl.load(
                up + row[:, None] * rank + middle[None, :],
                mask=(row < height)[:, None] & (middle < rank)[None, :],
                other=0,
            )
            right = tl.load(
                down + middle[:, None] * width + column[None, :],
                mask=(middle < rank)[:, None] & (column < width)[None, :],
                other=0,
            )
            product = tl.dot(left, right, product, input_precision="tf32x3")
        added += strength * product
    at = row[:, None] * width + column[None, :]
    inside = (row < height)[:, None] & (column < width)[None, :]
    value = _read(tl.load(base + slot), at, inside, DTYPE)
    total = _sum(value, at, inside, slot, whole, codes, factors, experts, slots)
    place = tl.load(live + tl.program_id(1) * slots + slot)
    tl.store(_at(place, DTYPE) + at, (total + added).to(DTYPE), mask=inside)
