"""What does an expert add to one parameter?

An update stays in the factors of its file until a merge needs it; adding it to a sum takes no more
memory than one or two tensors of the parameter's size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from diffgraph.families.layout import Rows, cut

ADDED_AS_THEY_ARE = (torch.float32, torch.float16, torch.bfloat16)
CHUNK = 1 << 18  # entries that are added at a time on a CPU: they fit its cache


class Update(Protocol):
    """A delta's entry for one parameter."""

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter it belongs to."""

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        """Add `coefficient` times the update to a sum, in place.

        Args:
            out: float32, contiguous, of the parameter's shape and on the update's device.
            coefficient: what the update is multiplied by.
        """

    def dense(self) -> Tensor:
        """Return the whole update in float32, shaped like its parameter."""


class _Summed:
    """What is whole when it is added to zeros."""

    def dense(self: Any) -> Tensor:
        out = torch.zeros(self.shape, dtype=torch.float32, device=device_of(self))
        self.add_to(out)
        return out


class _OfBase(_Summed):
    """What is a function of the base's weight, kept at hand as `base`."""

    @property
    def shape(self: Any) -> torch.Size:
        shape: torch.Size = self.base.shape
        return shape


@dataclass(frozen=True)
class DenseUpdate:
    """An update that is stored whole."""

    value: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        out.add_(_wide(self.value), alpha=coefficient)

    def dense(self) -> Tensor:
        """Return a copy in float32: the value itself is often a view of a file."""
        return self.value.to(torch.float32, copy=True)


@dataclass(frozen=True)
class LowRankUpdate(_Summed):
    """`scale * up @ down`, reshaped to the parameter.

    LoRA, https://arxiv.org/abs/2106.09685; a convolution's factors are flattened over its kernel.
    """

    up: Tensor  # (out, rank)
    down: Tensor  # (rank, in * kernel)
    scale: float  # alpha / rank
    shape: torch.Size

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        rows = out.view(self.up.shape[0], -1)
        rows.addmm_(self.up.float(), self.down.float(), alpha=coefficient * self.scale)


@dataclass(frozen=True)
class HadamardUpdate(_Summed):
    """`scale * (up_1 @ down_1) * (up_2 @ down_2)`, entry by entry, reshaped to the parameter.

    LoHa: FedPara, https://arxiv.org/abs/2108.06098.
    """

    up_1: Tensor  # (out, rank)
    down_1: Tensor  # (rank, in * kernel)
    up_2: Tensor
    down_2: Tensor
    scale: float  # alpha / rank
    shape: torch.Size

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        first = self.up_1.float() @ self.down_1.float()
        second = self.up_2.float() @ self.down_2.float()
        out.view(first.shape).addcmul_(first, second, value=coefficient * self.scale)


@dataclass(frozen=True)
class KroneckerUpdate(_Summed):
    """`scale * kron(left, right)`, reshaped to the parameter.

    LoKr: LyCORIS, https://arxiv.org/abs/2309.14859.
    """

    left: Tensor  # (a, c)
    right: Tensor  # (b, d, *kernel) with a * b = out, c * d = in
    scale: float
    shape: torch.Size

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        (rows, columns), (height, width) = self.left.shape, self.right.shape[:2]
        left = self.left.float().reshape(rows, 1, columns, 1, 1)
        right = self.right.float().reshape(1, height, 1, width, -1)
        blocks = out.view(rows, height, columns, width, -1)
        blocks.addcmul_(left, right, value=coefficient * self.scale)


@dataclass(frozen=True)
class CheckpointUpdate(_OfBase):
    """A whole weight less the base's; kept as the file has it, often in half precision.

    `base` must not change while the update is used: `Merger` puts its untouched copy here.
    """

    value: Tensor
    base: Tensor

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        sums = out.view(-1)
        for part, difference in self.differences():
            sums[part].add_(difference, alpha=coefficient)

    def differences(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the difference in float32, a piece after the other in one and the same memory.

        Where value and base are close it is exact; the difference of their multiples is not.
        """
        values, bases = self.value.reshape(-1), self.base.reshape(-1)
        if values.device.type != "cpu":
            yield slice(None), values.float() - bases.float()
            return
        first, second = torch.empty(2, min(CHUNK, len(values)))
        for start in range(0, len(values), CHUNK):
            part = slice(start, min(start + CHUNK, len(values)))
            difference = first[: part.stop - start].copy_(values[part])
            yield part, difference.sub_(second[: part.stop - start].copy_(bases[part]))


@dataclass(frozen=True)
class RenormalisedUpdate(_OfBase):
    """What turns the base's weight W into `magnitude * V / |V|`, with V = W + `direction`.

    DoRA, https://arxiv.org/abs/2402.09353. A function of W, whatever else is merged.
    """

    direction: Update
    magnitude: Tensor  # out or in entries
    dimension: int  # that the magnitude runs along: 0 rows, 1 columns
    base: Tensor

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        added = self.direction.dense()
        norm = self._norm(added)
        # (m / |V|) V - W = (m / |V| - 1) V + direction: the small parts, and no large ones between
        factor = (self.magnitude.double().reshape(norm.shape) / norm - 1).float()
        out.add_(added, alpha=coefficient)
        out.addcmul_(added.add_(_wide(self.base)), factor.expand_as(added), value=coefficient)

    def _norm(self, added: Tensor) -> Tensor:
        """Return |V| in float64, row by row or column by column, a piece at a time.

        Not of V in float32: where little is added, its rounding is as large as what is added.
        """
        rows, axis = self.base.shape[0], self.dimension
        step = max(1, CHUNK * rows // added.numel()) if added.device.type == "cpu" else rows
        shape = [length if index == axis else 1 for index, length in enumerate(added.shape)]
        others = [index for index in range(added.ndim) if index != axis]
        squares = []
        for start in range(0, rows, step):
            part = slice(start, start + step)
            squares.append((self.base[part].double() + added[part]).square_().sum(others))
        whole = torch.cat(squares) if axis == 0 else torch.stack(squares).sum(0)
        return whole.sqrt_().clamp_min_(torch.finfo(torch.float32).eps).reshape(shape)


@dataclass(frozen=True)
class DerivedUpdate(_OfBase):
    """What a format that multiplies the base's weight (OFT, (IA)^3, GLoRA) adds to it."""

    change: Callable[..., Tensor]  # (base in float32, *factors) -> the difference, shaped like base
    factors: tuple[Tensor, ...]
    base: Tensor

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        out.add_(self.change(self.base.float(), *self.factors), alpha=coefficient)


@dataclass(frozen=True)
class RowsUpdate(_Summed):
    """Some rows of an update of a taller weight, which another tool keeps fused."""

    whole: Update
    rows: Rows

    @property
    def shape(self) -> torch.Size:
        return _cut_shape(self.whole.shape, self.rows)

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        out.add_(cut(self.whole.dense(), self.rows).view(out.shape), alpha=coefficient)


@dataclass(frozen=True)
class SumUpdate(_Summed):
    """Several updates of one parameter, as some files hold."""

    terms: tuple[Update, ...]

    @property
    def shape(self) -> torch.Size:
        return self.terms[0].shape

    def add_to(self, out: Tensor, coefficient: float = 1.0) -> None:
        for term in self.terms:
            term.add_to(out, coefficient)


AnyUpdate = TypeVar("AnyUpdate", bound=Update)


def against(update: AnyUpdate, base: Tensor) -> AnyUpdate:
    """Return an update that holds on to this copy of the base's weight, if it needs one at all."""
    if isinstance(update, _OfBase):
        return replace(update, base=base)
    if isinstance(update, SumUpdate):
        return replace(update, terms=tuple(against(term, base) for term in update.terms))
    return update


def rows_of(update: Update, rows: Rows, base: Tensor) -> Update:
    """Return some rows of an update; `base` is the base's weight of these rows.

    What can be cut row by row stays in its factors; the rest is made whole when it is needed.
    """
    if isinstance(update, DenseUpdate):
        return DenseUpdate(cut(update.value, rows))
    if isinstance(update, LowRankUpdate):
        return replace(update, up=cut(update.up, rows), shape=_cut_shape(update.shape, rows))
    if isinstance(update, HadamardUpdate):
        first, second = cut(update.up_1, rows), cut(update.up_2, rows)
        return replace(update, up_1=first, up_2=second, shape=_cut_shape(update.shape, rows))
    if isinstance(update, RenormalisedUpdate) and update.dimension == 0:
        magnitude = cut(update.magnitude.reshape(-1), rows)
        direction = rows_of(update.direction, rows, base)
        return replace(update, direction=direction, magnitude=magnitude, base=base)
    return RowsUpdate(update, rows)


def _cut_shape(shape: torch.Size, rows: Rows) -> torch.Size:
    return torch.Size((sum(stop - start for start, stop in rows), *shape[1:]))


def mapped(
    update: AnyUpdate, change: Callable[[Tensor], Tensor], with_base: bool = True
) -> AnyUpdate:
    """Return an update with each of its tensors replaced, the base's own too unless left out."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, tuple) and not isinstance(value, torch.Size):
            return tuple(changed(part) for part in value)
        return mapped(value, change, with_base) if hasattr(value, "add_to") else value

    names = [item.name for item in fields(update) if with_base or item.name != "base"]  # type: ignore[arg-type]
    return replace(update, **{name: changed(getattr(update, name)) for name in names})  # type: ignore[type-var]


def moved(update: AnyUpdate, device: torch.device | str) -> AnyUpdate:
    """Return an update with its tensors on a device."""
    return mapped(update, lambda value: value.to(device))


def tensors_of(update: Any) -> Iterator[Tensor]:
    """Yield the tensors an update keeps, the base's own not counted."""
    found = [getattr(update, item.name) for item in fields(update) if item.name != "base"]
    while found:
        value = found.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple) and not isinstance(value, torch.Size):
            found.extend(value)
        elif hasattr(value, "add_to"):
            yield from tensors_of(value)


def device_of(update: Update) -> torch.device:
    """Return the device an update is on."""
    return next(tensors_of(update)).device


def norm(update: Update) -> float:
    """Return the Frobenius norm of an update."""
    if isinstance(update, LowRankUpdate):
        # of the factors' Gram matrices: the whole product is never formed
        up, down = update.up.double(), update.down.double()
        squared = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
        return abs(update.scale) * math.sqrt(float(squared))
    if isinstance(update, CheckpointUpdate):
        sizes = [float(torch.linalg.vector_norm(part)) for _, part in update.differences()]
        return math.hypot(*sizes) if all(map(math.isfinite, sizes)) else math.nan
    if isinstance(update, KroneckerUpdate):
        sides = [torch.linalg.vector_norm(side.double()) for side in (update.left, update.right)]
        return abs(update.scale) * float(sides[0] * sides[1])
    return float(torch.linalg.vector_norm(update.dense()))


def _wide(value: Tensor) -> Tensor:
    """Return what can be added to float32 as it is, without a copy where that is possible."""
    return value if value.dtype in ADDED_AS_THEY_ARE else value.float()
