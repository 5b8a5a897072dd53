"""How do deltas become weights?

`W = base + sum of coefficient * delta`, summed in float32 from an untouched copy of the base and
rounded once: a merge never depends on the one before it, and no merge at all gives the base back
bit for bit. Weights are written in place, and only where the last merge wrote something else.
Task arithmetic, https://arxiv.org/abs/2212.04089.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import LowRankUpdate, Update, against, moved
from diffgraph.families.family import ResidentModel
from diffgraph.merging.fused import FusedWriter, Mask, Row, Table, is_available
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.rules import PlannedMerge

Coefficients = Mapping[str, float]  # expert reference -> what its delta is multiplied by


Held = tuple[Table, float]
"""The number of an expert's update of each parameter, and its coefficient."""


class MergedExpert(NamedTuple):
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
        self._held: dict[str, Held] = {}  # what the weights hold, by reference
        self._unsure = np.zeros(len(self._live), bool)  # parameters that may hold something else
        self._known = _KnownDeltas(self._live)
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
            How many parameters had to be written: those whose updates or coefficients changed.
        """
        coefficients = final_coefficients(plan)
        demand(coefficients, deltas)
        rule = None
        if isinstance(plan, MergePlan) and not plan.is_linear:
            rule = PlannedMerge(plan)
        parts, wanted = [], {}
        for ref in sorted(coefficients):  # sums of floats depend on the order; a plan's must not
            row, numbers = self._known.row(deltas[ref])
            parts.append(MergedExpert(ref, row, coefficients[ref], deltas[ref]))
            wanted[ref] = numbers, coefficients[ref]
        stale = self._stale(wanted)
        if rule is not None:
            wanted = {}  # what a rule makes of the updates is not told by them
            stale = self._unsure | _reached(parts) | self._stale(wanted)
        self._unsure |= stale  # until all are written
        with self._on_device:
            self._unsure = self._write(parts, stale, rule)
        self._held = wanted
        return int(stale.sum())

    def reset(self) -> None:
        """Make the model the base again, bit for bit."""
        self.apply({}, {})

    def _stale(self, wanted: Mapping[str, Held]) -> Mask:
        """Return which parameters differ between what the weights hold and what they should."""
        stale = self._unsure.copy()
        none = np.zeros(len(stale), np.int64), 0.0
        for ref in {*self._held, *wanted}:
            (before, held), (after, asked) = self._held.get(ref, none), wanted.get(ref, none)
            stale |= before != after
            if held != asked:
                stale |= after != 0
        return stale

    def _write(self, parts: Sequence[MergedExpert], stale: Mask, rule: PlannedMerge | None) -> Mask:
        """Write some parameters; return those that a rule other than a sum has made."""
        reached = _reached(parts) & stale
        self._restore(stale & ~reached)
        left = reached
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


def _reached(parts: Sequence[MergedExpert]) -> Mask:
    reached: Any = np.any([part.row.touched for part in parts], axis=0) if parts else np.False_
    return reached  # type: ignore[no-any-return]


class _PerObject(dict[int, tuple[weakref.ref[Any], Any]]):
    """What was made of each object, as long as that lives, whatever becomes of its id."""

    def of(self, owner: Any, make: Callable[[Any], Any]) -> Any:
        """Return what was made of an object, or make it."""
        key = id(owner)
        known = self.get(key)
        if known is None or known[0]() is not owner:

            def forget(reference: weakref.ref[Any]) -> None:
                if key in self and self[key][0] is reference:
                    del self[key]

            known = self[key] = weakref.ref(owner, forget), make(owner)
        return known[1]


class _KnownDeltas:
    """Where the kernels find each delta's updates, and a number for each update."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self._live = live
        self._places = {name: place for place, name in enumerate(live)}
        self._numbers = count(1)
        self._rows, self._updates = _PerObject(), _PerObject()

    def row(self, delta: Delta) -> tuple[Row, Table]:
        """Return where a delta's updates lie, and their numbers: (parameters,), 0 for none."""
        row: tuple[Row, Table] = self._rows.of(delta, self._made)
        return row

    def _made(self, delta: Delta) -> tuple[Row, Table]:
        if unknown := sorted(set(delta.updates) - set(self._live)):
            raise PlanError(f"the model has no parameter {unknown[0]}")
        numbers = np.zeros(len(self._live), np.int64)
        for name, update in delta.updates.items():
            numbers[self._places[name]] = self._updates.of(update, lambda _: next(self._numbers))
        return Row(delta.updates, self._live), numbers


def is_sum(plan: MergePlan | Coefficients) -> bool:
    """Whether a plan is base + sum of coefficient * delta."""
    return not isinstance(plan, MergePlan) or plan.is_linear


def final_coefficients(plan: MergePlan | Coefficients) -> Coefficients:
    """Return the coefficients of a plan, or those given, without the experts left out by a 0."""
    given = plan.coefficients() if isinstance(plan, MergePlan) else plan
    return {ref: value for ref, value in given.items() if value != 0}


def demand(refs: Iterable[str], deltas: Mapping[str, Delta]) -> None:
    """Raise `PlanError` unless the deltas of all these experts are at hand."""
    missing = sorted(set(refs) - set(deltas))
    if missing:
        raise PlanError(f"no weights at hand for {', '.join(missing)}")


def demand_sums(
    plans: Iterable[MergePlan | Coefficients], deltas: Mapping[str, Delta]
) -> tuple[list[Coefficients], list[str]]:
    """Return the plans' coefficients and all their experts, ordered.

    Raises:
        PlanError: a plan is more than a sum and can only be merged alone, or lacks a delta.
    """
    if not all(map(is_sum, plans := list(plans))):
        raise PlanError("plans of the rule linear share a pass, not others")
    wanted = [final_coefficients(plan) for plan in plans]
    refs = sorted({ref for coefficients in wanted for ref in coefficients})
    demand(refs, deltas)
    return wanted, refs


def write_sum(live: Tensor, base: Tensor, terms: Sequence[tuple[float, Update]]) -> None:
    """Write `base + sum of coefficient * update` into a weight: one rounding, no other pass."""
    low_rank = _low_rank(terms, live.device)
    if len(low_rank) == len(terms) and live.dtype == torch.float32 and live.is_contiguous():
        whole = concatenated(low_rank)
        matrix = live.view(len(live), -1)
        torch.addmm(base.reshape(matrix.shape), whole.up, whole.down, out=matrix)
    else:
        live.copy_(merge(base, terms))


def merge(base: Tensor, terms: Sequence[tuple[float, Update]]) -> Tensor:
    """Return one parameter's merged value in float32, of (coefficient, update) pairs."""
    merged = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if low_rank := _low_rank(terms, base.device):
        whole = concatenated(low_rank)
        merged.view(len(merged), -1).addmm_(whole.up, whole.down)
    for value, update in terms:
        if not isinstance(update, LowRankUpdate):
            moved(against(update, base), base.device).add_to(merged, value)
    return merged


def _low_rank(
    terms: Sequence[tuple[float, Update]], device: torch.device
) -> list[tuple[float, LowRankUpdate]]:
    return [(value, moved(it, device)) for value, it in terms if isinstance(it, LowRankUpdate)]


def concatenated(terms: Sequence[tuple[float, LowRankUpdate]]) -> LowRankUpdate:
    """Return the weighted sum of low-rank updates as one of the ranks' sum: exact, one product."""
    ups = [value * update.scale * update.up.float() for value, update in terms]
    downs = [update.down.float() for _, update in terms]
    return LowRankUpdate(torch.cat(ups, dim=1), torch.cat(downs), 1.0, terms[0][1].shape)
