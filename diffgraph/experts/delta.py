"""What an expert adds to its base: exact updates, in factors until a merge needs them whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Update(Protocol):
    """A delta's entry for one parameter."""

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter it belongs to."""
        ...

    def dense(self) -> Tensor:
        """Return the whole update in float32, shaped like its parameter."""
        ...


@dataclass(frozen=True)
class DenseUpdate:
    """An update that is stored whole."""

    value: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter."""
        return self.value.shape

    def dense(self) -> Tensor:
        """Return it in float32."""
        return self.value.float()


@dataclass(frozen=True)
class LowRankUpdate:
    """`scale * up @ down`, reshaped to the parameter.

    LoRA, https://arxiv.org/abs/2106.09685; a convolution's factors are flattened over its kernel.
    """

    up: Tensor  # (out, rank)
    down: Tensor  # (rank, in * kernel)
    scale: float  # alpha / rank
    shape: torch.Size

    def dense(self) -> Tensor:
        """Return the product in float32."""
        return (self.scale * (self.up.float() @ self.down.float())).reshape(self.shape)


@dataclass(frozen=True)
class HadamardUpdate:
    """`scale * (up_1 @ down_1) * (up_2 @ down_2)`, entry by entry, reshaped to the parameter.

    LoHa: FedPara, https://arxiv.org/abs/2108.06098.
    """

    up_1: Tensor  # (out, rank)
    down_1: Tensor  # (rank, in * kernel)
    up_2: Tensor
    down_2: Tensor
    scale: float  # alpha / rank
    shape: torch.Size

    def dense(self) -> Tensor:
        """Return the product in float32."""
        first = self.up_1.float() @ self.down_1.float()
        second = self.up_2.float() @ self.down_2.float()
        return (self.scale * first * second).reshape(self.shape)


@dataclass(frozen=True)
class KroneckerUpdate:
    """`scale * kron(left, right)`, reshaped to the parameter.

    LoKr: LyCORIS, https://arxiv.org/abs/2309.14859.
    """

    left: Tensor  # (a, c)
    right: Tensor  # (b, d, *kernel) with a * b = out, c * d = in
    scale: float
    shape: torch.Size

    def dense(self) -> Tensor:
        """Return the product in float32."""
        left = self.left.float().reshape(*self.left.shape, *(1,) * (self.right.ndim - 2))
        return (self.scale * torch.kron(left, self.right.float().contiguous())).reshape(self.shape)


@dataclass(frozen=True)
class CheckpointUpdate:
    """A whole weight less the base's; kept as the file has it, often in half precision.

    `base` must not change while the update is used: a merge writes the live weights in place, so
    `Merger` puts its own untouched copy here (`against`).
    """

    value: Tensor
    base: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter."""
        return self.base.shape

    def dense(self) -> Tensor:
        """Return the difference in float32."""
        return self.value.float().reshape(self.base.shape) - self.base.float()


@dataclass(frozen=True)
class RenormalisedUpdate:
    """What turns the base's weight W into `magnitude * V / |V|`, with V = W + `direction`.

    DoRA, https://arxiv.org/abs/2402.09353. A function of W: like every delta it is what the expert
    adds to the base it was made from, whatever else is merged. `base` as in `CheckpointUpdate`.
    """

    direction: Update
    magnitude: Tensor  # out or in entries
    dimension: int  # that the magnitude runs along: 0 rows, 1 columns
    base: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter."""
        return self.base.shape

    def dense(self) -> Tensor:
        """Return the difference in float32."""
        base = self.base.float()
        moved = base + self.direction.dense()
        others = [index for index in range(moved.ndim) if index != self.dimension]
        norm = moved.square().sum(others, keepdim=True).sqrt() + torch.finfo(torch.float32).eps
        return self.magnitude.float().reshape(norm.shape) / norm * moved - base


AnyUpdate = TypeVar("AnyUpdate", bound=Update)


def against(update: AnyUpdate, base: Tensor) -> AnyUpdate:
    """Return an update that holds on to this copy of the base's weight, if it needs one at all."""
    if isinstance(update, CheckpointUpdate | RenormalisedUpdate):
        return replace(update, base=base)
    return update


def moved(update: AnyUpdate, device: torch.device | str) -> AnyUpdate:
    """Return an update with its tensors on a device."""
    changes: dict[str, Any] = {}
    for item in fields(update):  # type: ignore[arg-type]  # every update is a dataclass
        value = getattr(update, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value.to(device)
        elif hasattr(value, "dense"):
            changes[item.name] = moved(value, device)
    return replace(update, **changes)  # type: ignore[type-var]


def norm(update: Update) -> float:
    """Return the Frobenius norm of an update."""
    if isinstance(update, LowRankUpdate):
        # of the factors' Gram matrices: the whole product is never formed
        up, down = update.up.double(), update.down.double()
        squared = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
        return abs(update.scale) * math.sqrt(float(squared))
    return float(torch.linalg.vector_norm(update.dense()))


@dataclass(frozen=True)
class Coverage:
    """How much of a file was understood, and what it touches."""

    matched: tuple[str, ...] = ()  # keys that became part of an update
    skipped: tuple[str, ...] = ()  # keys known to carry nothing for a merge (EMA, position ids, …)
    unknown: tuple[str, ...] = ()  # keys nobody understood
    parameters: int = 0  # parameters of the model that are touched
    bytes: int = 0
    norms: Mapping[str, float] = field(default_factory=dict)  # block -> Frobenius norm of the delta
    evidence: tuple[str, ...] = ()  # why the file is believed to belong to the family

    @property
    def share(self) -> float:
        """The share of the meaningful keys that were understood, 0 to 1."""
        known = len(self.matched)
        return known / (known + len(self.unknown)) if known + len(self.unknown) else 0.0


@dataclass(frozen=True)
class Delta:
    """Parameter name -> update, exact, for the base it was read against."""

    updates: Mapping[str, Update]
    format: str
    coverage: Coverage

    def to(self, device: torch.device | str) -> "Delta":
        """Return the delta with its tensors on a device."""
        updates = {name: moved(update, device) for name, update in self.updates.items()}
        return replace(self, updates=updates)

    @property
    def bytes(self) -> int:
        """What the updates hold in memory, the base's own weights not counted."""
        return sum(_bytes(update) for update in self.updates.values())


def _bytes(update: Any) -> int:
    total = 0
    for item in fields(update):
        value = getattr(update, item.name)
        if isinstance(value, Tensor) and item.name != "base":
            total += value.numel() * value.element_size()
        elif hasattr(value, "dense"):
            total += _bytes(value)
    return total
