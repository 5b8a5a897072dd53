"""How do deltas become weights?

`W = base + sum of coefficient * delta`, summed in float32 from an untouched copy of the base and
rounded once, so a merge never depends on the one before it, and no merge at all gives the base back
bit for bit. Weights are written where they are: a compiled model stays compiled. What the last
merge wrote already is not written again. Task arithmetic, https://arxiv.org/abs/2212.04089.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta, LowRankUpdate, Update, against, moved
from diffgraph.families.family import ResidentModel
from diffgraph.merging.fused import FusedWriter, Mask, Row, is_available
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.rules import PlannedMerge

Coefficients = Mapping[str, float]
"""Expert reference -> what its delta is multiplied by."""

Terms = list[tuple[float, Update]]
"""What is added to one parameter: (coefficient, update) pairs, in a fixed order."""


class Part(NamedTuple):
    """An expert in a merge."""

    ref: str
    row: Row
    coefficient: float
    delta: Delta


class Merger:
    """Writes merges into a resident model's weights, in place; nothing else may write them.

    On a GPU with Triton a merge is two launches for all parameters, in float32 with one rounding;
    elsewhere, and for updates that no kernel knows (DoRA, LoHa, LoKr, …), it is a loop over them.
    """

    def __init__(self, model: ResidentModel):
        self.model = model
        self._live = dict(model.parameters())
        self.base: dict[str, Tensor] = {name: value.clone() for name, value in self._live.items()}
        """An untouched copy of the weights: what deltas are read against."""
        self._names = list(self._live)
        self._held: dict[int, tuple[Row, float]] = {}  # what the weights hold: by row, coefficient
        self._strange = np.zeros(len(self._live), bool)  # parameters that hold something else
        self._rows = _Rows(self._live)
        device = model.device
        self._fused = FusedWriter(self.base, [self._live]) if is_available(device) else None
        self._on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    @torch.no_grad()
    def apply(self, plan: MergePlan | Coefficients, deltas: Mapping[str, Delta]) -> int:
        """Make the model base + the plan's experts, whatever it was before.

        Args:
            plan: what to merge, or the coefficients themselves by reference.
            deltas: at least those of the plan, by reference.

        Returns:
            How many parameters had to be written: those whose experts or coefficients changed.
        """
        coefficients = final_coefficients(plan)
        demand(coefficients, deltas)
        wanted: dict[int, tuple[Row, float]] = {}
        parts = []
        for ref in sorted(coefficients):  # sums of floats depend on the order; a plan's must not
            number, row = self._rows.of(deltas[ref])
            wanted[number] = row, coefficients[ref]
            parts.append(Part(ref, row, coefficients[ref], deltas[ref]))
        rule = None
        if isinstance(plan, MergePlan) and not plan.is_linear:
            rule = PlannedMerge(plan)
            wanted = {}  # what a rule makes of coefficients is not told by them
        stale = self._stale(wanted)
        for part in parts if rule else ():
            stale |= part.row.touched
        self._strange |= stale  # until all are written
        with self._on_device:
            made = self._write(parts, stale, rule)
        self._held, self._strange = wanted, made
        return int(stale.sum())

    def reset(self) -> None:
        """Make the model the base again, bit for bit."""
        self.apply({}, {})

    def _stale(self, wanted: Mapping[int, tuple[Row, float]]) -> Mask:
        """Return which parameters differ between what the weights hold and what they should."""
        stale = self._strange.copy()
        for number, (row, value) in (*self._held.items(), *wanted.items()):
            held, asked = self._held.get(number), wanted.get(number)
            if held is None or asked is None or held[1] != asked[1]:
                stale |= row.touched
        return stale

    def _write(self, parts: Sequence[Part], stale: Mask, rule: PlannedMerge | None) -> Mask:
        """Write some parameters; return those that a rule other than a sum has made."""
        reached = np.zeros_like(stale)
        for part in parts:
            reached |= part.row.touched
        self._restore(stale & ~reached)
        left = stale & reached
        if self._fused is not None and rule is None and left.any():
            coefficients = np.array([[part.coefficient for part in parts]])
            left = self._fused.write([part.row for part in parts], coefficients, left)
        for place in np.flatnonzero(left):
            name = self._names[place]
            base, live = self.base[name], self._live[name]
            found = [part for part in parts if name in part.delta.updates]
            if rule is None:
                write_sum(live, base, [(p.coefficient, p.delta.updates[name]) for p in found])
            else:
                updates = {part.ref: part.delta.updates[name] for part in found}
                live.copy_(rule.parameter(name, base, updates))
        return left if rule else np.zeros_like(stale)

    def _restore(self, mask: Mask) -> None:
        names = [self._names[place] for place in np.flatnonzero(mask)]
        if names:
            torch._foreach_copy_(
                [self._live[name] for name in names], [self.base[name] for name in names]
            )


class _Rows:
    """A row for each delta as long as the delta lives, under a number that is never used again."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self._live = live
        self._numbers = count()
        self._known: dict[int, tuple[weakref.ref[Delta], int, Row]] = {}

    def of(self, delta: Delta) -> tuple[int, Row]:
        known = self._known.get(id(delta))
        if known is None or known[0]() is not delta:
            strangers = sorted(set(delta.updates) - set(self._live))
            if strangers:
                raise PlanError(f"the model has no parameter {strangers[0]}")
            row = Row.of(delta.updates, self._live)
            key = id(delta)
            watch = weakref.ref(delta, lambda _, key=key: self._known.pop(key, None))
            known = self._known[key] = watch, next(self._numbers), row
        return known[1], known[2]


def final_coefficients(plan: MergePlan | Coefficients) -> Coefficients:
    """Return the coefficients of a plan, or those given, without the experts left out by a 0."""
    given = plan.coefficients() if isinstance(plan, MergePlan) else plan
    return {ref: value for ref, value in given.items() if value != 0}


def demand(refs: Iterable[str], deltas: Mapping[str, Delta]) -> None:
    """Raise `PlanError` unless the deltas of all these experts are at hand."""
    missing = sorted(set(refs) - set(deltas))
    if missing:
        raise PlanError(f"no weights at hand for {', '.join(missing)}")


def terms_of(coefficients: Coefficients, deltas: Mapping[str, Delta]) -> dict[str, Terms]:
    """Return what is added to each parameter: (coefficient, update) pairs, ordered by reference."""
    demand(coefficients, deltas)
    terms: dict[str, Terms] = {}
    for ref in sorted(coefficients):
        for name, update in deltas[ref].updates.items():
            terms.setdefault(name, []).append((coefficients[ref], update))
    return terms


def write_sum(live: Tensor, base: Tensor, terms: Sequence[tuple[float, Update]]) -> None:
    """Write `base + sum of coefficient * update` into a weight: one rounding, no other pass.

    Args:
        live: the weight to write.
        base: its untouched copy.
        terms: (coefficient, update) pairs.
    """
    only_low_rank = all(isinstance(update, LowRankUpdate) for _, update in terms)
    if only_low_rank and live.dtype == torch.float32 and live.is_contiguous():
        whole = concatenated([(value, moved(update, live.device)) for value, update in terms])
        matrix = live.view(len(live), -1)
        torch.addmm(base.reshape(matrix.shape), whole.up, whole.down, out=matrix)
    else:
        live.copy_(merge(base, terms))


def merge(base: Tensor, terms: Sequence[tuple[float, Update]]) -> Tensor:
    """Return one parameter's merged value in float32.

    Args:
        base: the untouched weight.
        terms: (coefficient, update) pairs.
    """
    merged = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    low_rank = [(value, item) for value, item in terms if isinstance(item, LowRankUpdate)]
    if low_rank:
        there = [(value, moved(item, base.device)) for value, item in low_rank]
        whole = concatenated(there)
        merged.view(len(merged), -1).addmm_(whole.up, whole.down)
    for value, update in terms:
        if not isinstance(update, LowRankUpdate):
            against(moved(update, base.device), base).add_to(merged, value)
    return merged


def concatenated(terms: Sequence[tuple[float, LowRankUpdate]]) -> LowRankUpdate:
    """Return the weighted sum of low-rank updates as one of the ranks' sum: exact, one product."""
    ups = [value * update.scale * update.up.float() for value, update in terms]
    downs = [update.down.float() for _, update in terms]
    return LowRankUpdate(torch.cat(ups, dim=1), torch.cat(downs), 1.0, terms[0][1].shape)
