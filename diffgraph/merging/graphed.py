"""How does a GPU draw many plans at once without waiting for the host?

A small model is bound by launches, not by arithmetic: hundreds of kernels of microseconds. Here the
denoiser is recorded once as a CUDA graph in which every image of a batch has weights of its own;
whatever the experts, plans are written into those weights by the kernels that write one model's,
and a denoising step is one launch. It pays while a batch of whole denoisers fits the device.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import DenseUpdate, Update, against, moved
from diffgraph.families.family import ResidentModel
from diffgraph.merging.apply import Coefficients, Merger, demand_sums, merge
from diffgraph.merging.batched import Forward, own_forward
from diffgraph.merging.fused import FusedWriter, Row
from diffgraph.merging.plan import MergePlan

DENOISER = "unet."  # how the names of what is recorded begin
READY = 16  # experts whose updates are kept as the kernels read them
WARM_UPS = 3  # runs before a recording: libraries choose their kernels in them


class GraphedRollouts:
    """A denoiser for a fixed number of images, each with weights of its own.

    Args:
        merger: of the model, on a CUDA device with Triton.
        count: of the images in a batch; fewer are drawn by repeating the last.
    """

    def __init__(self, merger: Merger, count: int) -> None:
        self.merger, self.count = merger, count
        self._base = {n: v for n, v in merger.base.items() if n.startswith(DENOISER)}
        self.weights = {
            name: value[None].repeat(count, *(1,) * value.ndim)
            for name, value in self._base.items()
        }
        """Each image's own: (count, *shape) by name."""
        images = [
            {name: value[index] for name, value in self.weights.items()} for index in range(count)
        ]
        self._writer = FusedWriter(self._base, images)
        self._dirty = np.zeros(len(self._base), bool)
        self._root: Any = merger.model.components[DENOISER[:-1]]  # type: ignore[attr-defined]
        self._forwards = self._own_forwards()
        self._ready: dict[int, tuple[Delta, Mapping[str, Update], Row]] = {}
        self._recordings: dict[Any, _Recording] = {}

    @staticmethod
    def needed(merger: Merger, count: int) -> int:
        weights = merger.base.items()
        return count * sum(value.nbytes for name, value in weights if name.startswith(DENOISER))

    @torch.no_grad()
    def write(self, plans: Sequence[MergePlan | Coefficients], deltas: Mapping[str, Delta]) -> None:
        """Give image i the weights of plan i, as `Merger` would write them."""
        wanted, refs = demand_sums(plans, deltas)
        wanted += [wanted[-1]] * (self.count - len(wanted))
        ready = [self._readable(deltas[ref]) for ref in refs]
        updates, rows = [own for own, _ in ready], [row for _, row in ready]
        table = np.array([[own.get(ref, 0.0) for ref in refs] for own in wanted]).reshape(
            self.count, len(refs)
        )
        touched = np.any([np.zeros_like(self._dirty), *(row.touched for row in rows)], axis=0)
        stale = self._dirty | touched
        left = self._writer.write(rows, table, stale) if rows else stale
        names = list(self._base)
        for place in np.flatnonzero(left):
            name = names[place]
            own = [
                (column, update[name]) for column, update in enumerate(updates) if name in update
            ]
            for index in range(self.count):
                terms = [(table[index, column], update) for column, update in own]
                self.weights[name][index].copy_(merge(self._base[name], terms))
        self._dirty = touched

    @contextmanager
    def rollouts(
        self, plans: Sequence[MergePlan | Coefficients], deltas: Mapping[str, Delta]
    ) -> Iterator[ResidentModel]:
        """Yield the model; inside, image i of every batch is drawn as if merged by plan i."""
        if not 0 < len(plans) <= self.count:
            raise PlanError(f"{len(plans)} plans for a recording of {self.count}")
        self.merger.reset()
        self.write(plans, deltas)
        self._root.forward = lambda *args, **kwargs: self._replay(len(plans), *args, **kwargs)
        try:
            yield self.merger.model
        finally:
            self._root.__dict__.pop("forward", None)

    def _readable(self, delta: Delta) -> tuple[Mapping[str, Update], Row]:
        """Return a delta's updates as the kernels read them, others made whole; and their row."""
        known = self._ready.pop(id(delta), None)
        if known is None or known[0] is not delta:
            if other := sorted(set(delta.updates) - set(self._base)):
                raise PlanError(f"{other[0]} is not the denoiser's: merge one plan at a time")
            updates = dict(delta.updates)
            names = list(self._base)
            for place in np.flatnonzero(Row(updates, self._base).plain):
                base = self._base[names[place]]
                there = moved(against(updates[names[place]], base), base.device)
                updates[names[place]] = DenseUpdate(there.dense())
            known = delta, updates, Row(updates, self._base)
        self._ready[id(delta)] = known
        while len(self._ready) > READY:
            self._ready.pop(next(iter(self._ready)))
        return known[1], known[2]

    def _own_forwards(self) -> dict[nn.Module, Forward]:
        modules = self.merger.model.modules()
        owners = {name.rpartition(".")[0] for name in self._base}
        return {
            modules[owner]: own_forward(
                owner,
                modules[owner],
                self.weights.get(f"{owner}.weight"),
                self.weights.get(f"{owner}.bias"),
                as_products=True,
            )
            for owner in sorted(owners)
        }

    def _replay(self, images: int, *args: Any, **kwargs: Any) -> Any:
        """Run the recorded denoiser on a batch of `images`, or of twice as many."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        times = len(tensors[0]) // images
        filled = [_filled(value, images, self.count, times) for value in tensors]
        shapes = tuple((value.shape, value.dtype) for value in filled)
        key = (
            shapes,
            tuple(value for value in args if not isinstance(value, Tensor)),
            tuple(kwargs),
            tuple(value for value in kwargs.values() if not isinstance(value, Tensor)),
        )
        if key not in self._recordings:
            self._recordings[key] = _Recording(self._root, self._forwards, filled, args, kwargs)
        result = self._recordings[key].replay(filled)
        return tuple(
            value.reshape(times, self.count, *value.shape[1:])[:, :images].flatten(0, 1).clone()
            for value in result
        )


class _Recording:
    def __init__(
        self,
        root: Any,
        forwards: Mapping[nn.Module, Forward],
        inputs: Sequence[Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._inputs = [value.clone() for value in inputs]
        waiting = iter(self._inputs)

        def placed(value: Any) -> Any:
            return next(waiting) if isinstance(value, Tensor) else value

        own = tuple(placed(value) for value in args)
        named = {name: placed(value) for name, value in kwargs.items()}
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        patched = root.__dict__.pop("forward", None)
        try:
            self._graph, self._outputs = self._record(lambda: root(*own, **named))
        finally:
            if patched is not None:
                root.__dict__["forward"] = patched
            for module in forwards:
                module.__dict__.pop("forward", None)

    def _record(self, run: Any) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            outputs = run()
        return graph, tuple(outputs)

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._graph.replay()
        return self._outputs


def _filled(value: Tensor, images: int, count: int, times: int) -> Tensor:
    """Return an input for `count` images: the last of each part of the batch is repeated."""
    if value.ndim == 0 or images == count:
        return value
    parts = value.reshape(times, images, *value.shape[1:])
    more = parts[:, -1:].expand(times, count - images, *value.shape[1:])
    return torch.cat([parts, more], 1).flatten(0, 1)
