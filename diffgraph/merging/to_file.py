"""How is a merged model written that never was in memory?

Tensor after tensor, piece after piece, on all cores: each thread reads a piece of every expert's
file, sums it in float32 where its core's cache can hold it, and writes the result to its place.
However many experts there are and however large they are, what is held is a few pieces; rules that
look at a whole delta hold the tensor they work on.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, LowRankUpdate, Update
from diffgraph.merging.base_files import BaseFiles
from diffgraph.merging.layouts import OutputTensor
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.rules import PlannedMerge
from diffgraph.merging.weights_writer import WeightsWriter, new_weights
from diffgraph.merging.widening import widen

BLOCK = 1 << 18  # entries that are summed at a time: they fit a core's own cache
PRODUCT = 1 << 20  # with low-rank updates: a product of more rows takes less time an entry
PIECE = 1 << 21  # entries that a thread takes on at a time
NO_SHARE = 2.0**-30  # the base counts for nothing when what is left of 1 for it is a rounding error

TYPES: Mapping[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
"""The types of numbers that a file may hold, as other tools call them."""

OnProgress = Callable[[Path, int, int], None]
"""Called with a file, the entries of it that are written and all there are, from any thread."""


Whole = list[tuple[float, Tensor]]  # (coefficient, all entries of a parameter in one dimension)
LowRank = list[tuple[float, LowRankUpdate]]


@dataclass(frozen=True)
class Run:
    """A stretch of whole rows of a tensor in the file, and what it is the sum of."""

    first: int  # entries from the beginning of the file's tensor
    stop: int
    shift: int  # added to the number of an entry: its number in the sum's parameter
    whole: Whole
    low_rank: LowRank


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workspace:
    """The memory of one thread, kept from piece to piece."""

    def __init__(self, dtype: torch.dtype):
        self.total = torch.empty(0)
        self.wide = torch.empty(0)
        self.bits = torch.empty(0, dtype=torch.int16)
        self.out = torch.empty(0, dtype=dtype)

    def fit(self, block: int, piece: int) -> None:
        if len(self.total) < block:
            self.total, self.wide = torch.empty(block), torch.empty(block)
            self.bits = torch.empty(block, dtype=torch.int16)
        if len(self.out) < piece:
            self.out = torch.empty(piece, dtype=self.out.dtype)


class FileMerge:
    """Fills the tensors of files with what a plan makes of a base.

    Args:
        plan: what is merged.
        deltas: of the plan's experts, by reference, made by `open_delta` against `base.parameters`.
        base: the base's files.
        threads: all cores by default.
    """

    def __init__(
        self,
        plan: MergePlan,
        deltas: Mapping[str, Delta],
        base: BaseFiles,
        threads: int | None = None,
    ):
        self.plan = plan
        self.planned = PlannedMerge(plan)
        self.deltas = {
            ref: deltas[ref] for ref, value in self.planned.coefficients.items() if value != 0
        }
        self.base = base
        self.threads = threads or cores()

    def write(
        self,
        path: Path,
        outputs: Mapping[str, OutputTensor],
        dtype: torch.dtype,
        metadata: Mapping[str, str],
        on_progress: OnProgress | None = None,
    ) -> None:
        """Write one file, whole or not at all.

        Raises:
            StorageError: there is no room for it, or it cannot be written.
            DamagedFile: an expert's file holds NaN or infinite numbers.
            MissingInput: the base's does.
            PlanError: the plan cannot be made one model, or its numbers do not fit the type.
        """
        shapes = {key: output.shape for key, output in outputs.items()}
        with new_weights(path, shapes, dtype, metadata) as writer, _one_thread_each():
            told = None if on_progress is None else partial(on_progress, path)
            work = _Work(self, outputs, writer, told)
            with ThreadPoolExecutor(self.threads) as pool:
                for done in [pool.submit(work.run) for _ in range(self.threads)]:
                    done.result()

    def runs_of(self, output: OutputTensor) -> list[Run] | None:
        """Return the stretches of a tensor that are sums, or None if the rule must make it whole.

        A tensor has several when other tools keep several of our parameters in it.
        """
        if output.copied is not None:
            return [Run(0, output.shape.numel(), 0, [(1.0, output.copied.value.reshape(-1))], [])]
        if not self.plan.is_linear:
            return None
        runs = []
        for place in output.merged:
            terms = self.sum_of(place.name)
            if terms is None:
                return None
            shape = self.base.merged[place.name].value.shape
            width = shape[1:].numel()
            own = 0
            for start, stop in place.rows or ((0, shape.numel() // width if width else 0),):
                runs.append(Run(start * width, stop * width, own - start * width, *terms))
                own += (stop - start) * width
        return runs

    def sum_of(self, name: str) -> tuple[Whole, LowRank] | None:
        """Return the sum that a parameter is, or None if one of its updates is not a plain term."""
        share, whole, low_rank = 1.0, Whole(), LowRank()
        for ref, update in self.updates(name).items():
            coefficient = self.planned.coefficients[ref]
            if isinstance(update, CheckpointUpdate | DenseUpdate):
                whole.append((coefficient, update.value.reshape(-1)))
                share -= coefficient if isinstance(update, CheckpointUpdate) else 0.0
            elif isinstance(update, LowRankUpdate):
                low_rank.append((coefficient, update))
            else:
                return None
        if abs(share) > NO_SHARE or not whole:
            whole.insert(0, (share, self.base.merged[name].value.reshape(-1)))
        return whole, low_rank

    def whole(self, output: OutputTensor) -> Tensor:
        """Return a tensor of the file in float32, made whole."""
        parts = []
        for place in output.merged:
            base = self.base.weight(place.name)
            parts.append(self.planned.parameter(place.name, base, self.updates(place.name)))
        if len(parts) == 1 and not output.merged[0].rows:
            return parts[0].reshape(output.shape)
        whole = torch.empty(output.shape)
        for place, part in zip(output.merged, parts, strict=True):
            place.put(whole, part)
        return whole

    def updates(self, name: str) -> dict[str, Update]:
        return {
            ref: self.deltas[ref].updates[name]
            for ref in sorted(self.deltas)
            if name in self.deltas[ref].updates
        }

    def release(self, output: OutputTensor) -> None:
        if output.copied is not None:
            output.copied.release()
        for place in output.merged:
            self.base.merged[place.name].release()
            for ref in self.updates(place.name):
                self.deltas[ref].release(place.name)

    def explain(self, key: str, output: OutputTensor, dtype: torch.dtype) -> Exception:
        """Return what is wrong with a tensor whose entries do not all fit the file's type."""
        for place in output.merged:
            for ref in self.updates(place.name):
                self.deltas[ref].check(place.name)  # raises, with the file and its key
            self.base.merged[place.name].check()
        if output.copied is not None:
            output.copied.check()
        changed = any(self.updates(place.name) for place in output.merged)
        name = str(dtype).removeprefix("torch.")
        return PlanError(
            f"plan {self.plan.id}: entries of {key} are too large for {name}; "
            f"{'smaller coefficients or ' if changed else ''}another type would do"
        )


@dataclass(frozen=True)
class _Piece:
    key: str
    output: OutputTensor
    first: int
    stop: int
    run: Run | None  # None: the rule makes the tensor whole


class _Work:
    def __init__(
        self,
        merge: FileMerge,
        outputs: Mapping[str, OutputTensor],
        writer: WeightsWriter,
        on_progress: Callable[[int, int], None] | None,
    ):
        self._merge = merge
        self._writer = writer
        self._on_progress = on_progress
        self._pieces = self._cut(outputs)
        self._lock = threading.Lock()
        self._left = {key: output.shape.numel() for key, output in outputs.items()}
        self._all = sum(self._left.values())
        self._done = 0
        self._failed = False

    def run(self) -> None:
        torch.set_num_threads(1)
        space = Workspace(self._writer.dtype)
        try:
            with torch.inference_mode():
                while (piece := self._next()) is not None:
                    self._fill(piece, space)
        except BaseException:
            self._failed = True
            raise

    def _next(self) -> _Piece | None:
        with self._lock:
            return None if self._failed else next(self._pieces, None)

    def _cut(self, outputs: Mapping[str, OutputTensor]) -> Iterator[_Piece]:
        for key, output in outputs.items():
            runs = self._merge.runs_of(output)
            if runs is None:
                yield _Piece(key, output, 0, output.shape.numel(), None)
                continue
            width = output.shape[1:].numel()
            step = max(1, PIECE // max(1, width)) * width  # whole rows, as low-rank updates come
            for run in runs:
                for first in range(run.first, run.stop, max(1, step)):
                    yield _Piece(key, output, first, min(run.stop, first + step), run)

    def _fill(self, piece: _Piece, space: Workspace) -> None:
        if piece.run is not None:
            self._sum(piece, piece.run, space)
        else:
            self._write_whole(piece, space)
        with self._lock:
            self._left[piece.key] -= piece.stop - piece.first
            self._done += piece.stop - piece.first
            finished, done = not self._left[piece.key], self._done
        if finished:
            self._merge.release(piece.output)
        if self._on_progress is not None:
            self._on_progress(done, self._all)

    def _sum(self, piece: _Piece, run: Run, space: Workspace) -> None:
        count, width = piece.stop - piece.first, piece.output.shape[1:].numel()
        block = PRODUCT if run.low_rank else BLOCK
        step = max(1, block // width) * width
        space.fit(min(step, count), count)
        low_rank = [(value * it.scale, it.up, it.down.float()) for value, it in run.low_rank]
        for first in range(piece.first, piece.stop, step):
            stop = min(piece.stop, first + step)
            start, end = first + run.shift, stop + run.shift
            total = _weighted(run.whole, start, end, space)
            for value, up, down in low_rank:
                part = up[start // width : end // width].float()
                total.view(-1, width).addmm_(part, down, alpha=value)
            self._round(piece, total, space.out[first - piece.first : stop - piece.first])
        self._writer.write(piece.key, space.out[:count], piece.first)

    def _write_whole(self, piece: _Piece, space: Workspace) -> None:
        flat = self._merge.whole(piece.output).reshape(-1)
        for start in range(0, piece.stop, PIECE):
            part = flat[start : start + PIECE]
            space.fit(0, len(part))
            self._round(piece, part, space.out[: len(part)])
            self._writer.write(piece.key, space.out[: len(part)], start)

    def _round(self, piece: _Piece, total: Tensor, out: Tensor) -> None:
        """Round once, from float32 to the file's type; nothing infinite is written."""
        low, high = torch.aminmax(total)
        largest = torch.finfo(out.dtype).max
        if not (-largest <= float(low) and float(high) <= largest):  # a NaN is not, either
            raise self._merge.explain(piece.key, piece.output, out.dtype)
        out.copy_(total)


def _weighted(terms: Whole, start: int, stop: int, space: Workspace) -> Tensor:
    count = stop - start
    total, wide, bits = space.total[:count], space.wide[:count], space.bits[:count]
    for number, (value, entries) in enumerate(terms):
        if number == 0:
            widen(entries[start:stop], total, bits)
            if value != 1.0:
                total.mul_(value)
        else:
            widen(entries[start:stop], wide, bits)
            total.add_(wide, alpha=value)
    return total


class _one_thread_each:  # noqa: N801  # used like a function
    def __enter__(self) -> None:
        self._before = torch.get_num_threads()

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)
