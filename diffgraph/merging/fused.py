"""How are all parameters of a merge written on a GPU at once?

Where an expert's numbers lie is looked up once; a merge is then one table of coefficients and two
launches (`diffgraph.merging.kernels`), whatever the number of parameters and experts.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, LowRankUpdate, Update

log = logging.getLogger(__name__)

Mask: TypeAlias = npt.NDArray[np.bool_]
Table: TypeAlias = npt.NDArray[Any]

CODES: Mapping[torch.dtype, int] = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
"""The types that the kernels read, by the number they know them under."""

LESS_BASE = 4  # added to the code of a whole model's weight
STEP = 8  # entries in a row must be a multiple of it: loads of 16 bytes
ALIGNED = 16  # bytes
LAYOUTS = 16  # tables of tiles that are kept


class Row:
    """Where an expert's updates lie, one column a parameter; the updates must outlive it.

    Args:
        updates: by name of their parameter.
        live: the parameters, in the order of the columns.
    """

    def __init__(self, updates: Mapping[str, Update], live: Mapping[str, Tensor]) -> None:
        count = len(live)
        self.touched = np.zeros(count, bool)
        self.plain = np.zeros(count, bool)
        """What no kernel can read: other kinds, other devices, odd places in memory."""
        self.whole, self.codes = np.zeros(count, np.int64), np.zeros(count, np.int32)
        self.ups, self.downs = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.ranks, self.scales = np.zeros(count, np.int32), np.zeros(count, np.float64)
        self.factor = _common_factor(updates.values())
        for place, (name, parameter) in enumerate(live.items()):
            if name in updates:
                self.touched[place] = True
                self.plain[place] = not self._found(place, updates[name], parameter)

    def _found(self, place: int, update: Update, live: Tensor) -> bool:
        """Note where an update lies, if the kernels can read it there."""
        if isinstance(update, LowRankUpdate):
            up, down = update.up, update.down
            good = self.factor is not None and update.shape == live.shape
            if good and _readable(up, live) and _readable(down, live):
                self.ups[place], self.downs[place] = up.data_ptr(), down.data_ptr()
                self.ranks[place], self.scales[place] = down.shape[0], update.scale
                return True
        elif isinstance(update, CheckpointUpdate | DenseUpdate):
            value, less_base = update.value, isinstance(update, CheckpointUpdate)
            if _readable(value, live) and value.numel() == live.numel():
                self.whole[place] = value.data_ptr()
                self.codes[place] = CODES[value.dtype] + LESS_BASE * less_base
                return True
        return False


def is_available(device: torch.device) -> bool:
    """Whether weights on this device can be written by the kernels."""
    return device.type == "cuda" and _kernels() is not None


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    try:
        from diffgraph.merging import kernels
    except ImportError:
        log.info("without Triton, merges take one launch a parameter")
        return None
    return kernels


def _common_factor(updates: Iterable[Update]) -> torch.dtype | None:
    kinds = {
        value.dtype
        for update in updates
        if isinstance(update, LowRankUpdate)
        for value in (update.up, update.down)
    }
    return kinds.pop() if len(kinds) == 1 else None


def _readable(value: Tensor, live: Tensor) -> bool:
    return (
        value.device == live.device
        and value.dtype in CODES
        and value.is_contiguous()
        and value.data_ptr() % ALIGNED == 0
    )


class FusedWriter:
    """Writes sums of updates into live weights, all of them in two launches.

    Args:
        base: untouched weights by name.
        live: the weights to write, likewise and in the same order; one mapping a model.
    """

    def __init__(self, base: Mapping[str, Tensor], live: Sequence[Mapping[str, Tensor]]) -> None:
        first = next(iter(base.values()))
        self._device, self._dtype = first.device, first.dtype
        self._sizes = np.array([_sides(value) for value in base.values()], np.int32).reshape(-1, 2)
        self.able = np.array(
            [_is_able([value, *(own[name] for own in live)], first) for name, value in base.items()]
        )
        """Which parameters the kernels can write at all."""
        self._there = (
            torch.from_numpy(self._sizes).to(self._device),
            torch.tensor([value.data_ptr() for value in base.values()], device=self._device),
            torch.tensor(
                [[own[name].data_ptr() for name in base] for own in live], device=self._device
            ),
        )
        self._models = len(live)
        self._tiles: OrderedDict[bytes, Tensor] = OrderedDict()

    def write(self, rows: Sequence[Row], coefficients: Table, stale: Mask) -> Mask:
        """Write the parameters of a mask; return those that are left to be written otherwise.

        Args:
            rows: of the experts, at least one.
            coefficients: (models, experts).
            stale: which parameters to write.
        """
        can = stale & self.able
        for row in rows:
            can &= ~row.plain
        whole = [place for place, row in enumerate(rows) if row.whole.any()]
        adapters = [place for place, row in enumerate(rows) if row.ranks.any()]
        factors = {rows[place].factor for place in adapters}
        low_rank = np.zeros_like(can)
        for place in adapters:
            low_rank |= rows[place].ranks > 0
        if len(factors) > 1:  # files of several types: the kernel multiplies one
            can &= ~low_rank
        left: Mask = stale & ~can
        if not can.any():
            return left
        kernels = _kernels()
        assert kernels is not None
        tables = _tables(rows, coefficients, whole, adapters, self._device)
        common = *self._there, *tables[:3], len(whole), len(can)
        if (mask := can & ~low_rank).any():
            tiles = self._kept(mask, 1, lambda: _blocks(self._sizes, mask, kernels.BLOCK))
            kernels.sum_whole[(len(tiles), self._models)](
                tiles, *common, DTYPE=_named(self._dtype), BLOCK=kernels.BLOCK,
                num_warps=kernels.WARPS,
            )  # fmt: skip
        if (low := can & low_rank).any():
            shape = kernels.ROWS, kernels.COLUMNS
            tiles = self._kept(low, 2, lambda: _tiles(self._sizes, low, *shape))
            kernels.sum_low_rank[(len(tiles), self._models)](
                tiles, *common, *tables[3:], len(adapters),
                DTYPE=_named(self._dtype), FACTOR=_named(next(iter(factors))),
                EVEN=all((rows[place].ranks % STEP == 0).all() for place in adapters),
                ROWS=kernels.ROWS, COLUMNS=kernels.COLUMNS, RANKS=kernels.RANKS,
                num_warps=kernels.TILE_WARPS,
            )  # fmt: skip
        return left

    def _kept(self, mask: Mask, kind: int, make: Callable[[], Table]) -> Tensor:
        """Return tiles on the device; most merges write the same parameters as one before."""
        key = bytes([kind]) + np.packbits(mask).tobytes()
        if key not in self._tiles:
            self._tiles[key] = torch.from_numpy(make()).to(self._device)
            while len(self._tiles) > LAYOUTS:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(key)
        return self._tiles[key]


def _tables(
    rows: Sequence[Row],
    coefficients: Table,
    whole: Sequence[int],
    adapters: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """Return what the kernels look up, by one copy to the device.

    Whole weights' addresses, their codes and factors; ups, downs, ranks and strengths.
    """
    slots = len(rows[0].touched)

    def stacked(name: str, places: Sequence[int], kind: type[np.generic]) -> Table:
        found = [getattr(rows[place], name) for place in places]
        return np.stack(found).astype(kind) if found else np.zeros((1, slots), kind)

    reach = (stacked("whole", whole, np.int64) != 0).astype(np.float64)
    tables = [
        stacked("whole", whole, np.int64),
        stacked("codes", whole, np.int32),
        _times(coefficients[:, whole], reach),
        stacked("ups", adapters, np.int64),
        stacked("downs", adapters, np.int64),
        stacked("ranks", adapters, np.int32),
        _times(coefficients[:, adapters], stacked("scales", adapters, np.float64)),
    ]
    padded = [_padded(table) for table in tables]
    buffer = torch.from_numpy(np.concatenate(padded)).to(device)
    parts = buffer.split([len(part) for part in padded])
    return [
        part[: table.nbytes].view(_TORCH[table.dtype.type])
        for part, table in zip(parts, tables, strict=True)
    ]


_TORCH = {np.float32: torch.float32, np.int64: torch.int64, np.int32: torch.int32}


def _padded(table: Table) -> Table:
    data = np.ascontiguousarray(table).view(np.uint8).reshape(-1)
    return np.pad(data, (0, -len(data) % ALIGNED))


def _times(coefficients: Table, values: Table) -> Table:
    if not coefficients.size:
        return np.zeros(1, np.float32)
    product: Table = coefficients[:, :, None] * values[None]
    return product.astype(np.float32)


def _is_able(values: Sequence[Tensor], like: Tensor) -> bool:
    return all(
        value.dtype == like.dtype
        and _readable(value, like)
        and _sides(value)[1] % STEP == 0
        and 0 < value.numel() < 1 << 31
        for value in values
    )


def _sides(value: Tensor) -> tuple[int, int]:
    """Return rows and columns of a parameter as a matrix; a vector is one row."""
    rows = value.shape[0] if value.ndim > 1 else 1
    return rows, value.numel() // max(rows, 1)


def _blocks(sizes: Table, mask: Mask, block: int) -> Table:
    """Return (slot, block) of every block of some parameters: (tiles, 2)."""
    slots = np.flatnonzero(mask)
    counts = -(-sizes[slots].astype(np.int64).prod(1) // block)
    return np.stack([np.repeat(slots, counts), _count_up(counts)], 1).astype(np.int32)


def _tiles(sizes: Table, mask: Mask, rows: int, columns: int) -> Table:
    """Return (slot, row, column) of every tile of some matrices: (tiles, 3)."""
    slots = np.flatnonzero(mask)
    down, across = -(-sizes[slots, 0] // rows), -(-sizes[slots, 1] // columns)
    number = _count_up(down * across)
    width = np.repeat(across, down * across)
    found = np.repeat(slots, down * across), number // width, number % width
    return np.stack(found, 1).astype(np.int32)


def _count_up(counts: Table) -> Table:
    """Return 0, 1, … for each of the counts."""
    ends = np.cumsum(counts)
    numbers: Table = np.arange(ends[-1] if len(ends) else 0)
    numbers -= np.repeat(ends - counts, counts)
    return numbers


def _named(dtype: torch.dtype | None) -> Any:
    import triton.language as tl

    return {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(
        dtype or torch.float32, tl.float32
    )
