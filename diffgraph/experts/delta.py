"""What an expert adds to its base: exact updates, kept in factors until a merge needs them whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
