"""What is one format of adapter: which keys mark it, and what they make together?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, FamilyMismatch
from diffgraph.experts.updates import Update
from diffgraph.experts.weights_file import shown

LARGEST_SCALE = 1e18  # times the largest coefficient of a plan it still fits float32


@dataclass(frozen=True)
class ModuleTensors:
    """The tensors that a file holds for one module, by their role."""

    file: str
    module: str  # as the file calls it
    tensors: Mapping[str, Tensor]
    alpha: float | None = None  # missing means the rank
    rank: int | None = None  # as stated, for factors that do not show it
    rooted: bool = False  # rank-stabilised: the scale is alpha / sqrt(rank)
    settings: Mapping[str, Any] = field(default_factory=dict)  # PEFT's configuration of the adapter

    @property
    def where(self) -> str:
        """The file and its module, as messages begin."""
        return f"{self.file}: {shown(self.module)}"

    def __getitem__(self, role: str) -> Tensor:
        if role not in self.tensors:
            raise DamagedFile(f"{self.where} lacks its {role}")
        return self.tensors[role]

    def __contains__(self, role: str) -> bool:
        return role in self.tensors

    def matrix(self, role: str) -> Tensor:
        """Return a factor flattened to (rows, everything else)."""
        value = self[role]
        if value.ndim < 2 or 0 in value.shape:
            raise DamagedFile(f"{self.where}: {role} is {tuple(value.shape)}, not a matrix")
        return value.flatten(1)

    def scale(self, rank: int) -> float:
        """Return what the product of the factors is multiplied by."""
        if self.alpha is None:
            return 1.0
        scale = self.alpha / (math.sqrt(rank) if self.rooted else rank)
        if not abs(scale) <= LARGEST_SCALE:
            raise DamagedFile(
                f"{self.where}: an alpha of {self.alpha:g} at rank {rank} is no strength"
            )
        return scale

    def product(self, left: str, right: str) -> tuple[Tensor, Tensor]:
        """Return two factors that can be multiplied: (rows, rank) and (rank, columns)."""
        first, second = self.matrix(left), self.matrix(right)
        self.agree(f"{left} and {right}", first.shape[1], second.shape[0])
        return first, second

    def factors(
        self, left: str, right: str, core: str, shape: torch.Size, turned: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return factors whose product has a shape: (rows, rank) and (rank, columns * kernel).

        Args:
            left: the role of the left factor.
            right: of the right one.
            core: of a Tucker decomposition's core between them, if the file has one.
            shape: of the base's parameter.
            turned: beside a core the left factor lies transposed.
        """
        if core not in self:
            up, down = self.product(left, right)
            self.fits((up.shape[0], *self[right].shape[1:]), shape)
            return up, down
        up, middle, down = self.matrix(left), self[core], self.matrix(right)
        up = up.T if turned else up
        self.agree(f"{left} and {core}", up.shape[1], middle.shape[0])
        self.agree(f"{core} and {right}", middle.shape[1], down.shape[0])
        self.fits((up.shape[0], down.shape[1], *middle.shape[2:]), shape)
        return up, tucker(middle, down)

    def vector(self, role: str, length: int) -> Tensor:
        """Return a tensor of so many numbers, whatever its shape, as one dimension."""
        value = self[role]
        if value.numel() != length:
            raise FamilyMismatch(
                f"{self.where}: {role} is {tuple(value.shape)}, "
                f"the base model needs {length} numbers"
            )
        return value.reshape(-1)

    def agree(self, what: str, first: int, second: int) -> None:
        """Raise `DamagedFile` unless two ranks are the same."""
        if first != second:
            raise DamagedFile(f"{self.where}: ranks of {what} differ: {first} and {second}")

    def fits(self, made: tuple[int, ...], shape: torch.Size) -> None:
        """Raise `FamilyMismatch` unless what the factors make has as many rows and columns.

        Looked at before anything is multiplied: a hostile file's small factors can make a huge
        product.
        """
        rows, columns = shape[0], math.prod(shape[1:])
        if (made[0], math.prod(made[1:])) != (rows, columns):
            raise FamilyMismatch(
                f"{self.where} is for a weight of shape {tuple(made)}, "
                f"the base model's is {tuple(shape)}"
            )


@dataclass(frozen=True)
class AdapterFormat:
    """How one format is recognised and read."""

    name: str
    suffixes: Mapping[str, str]  # what follows the module's name in a key -> the tensor's role
    marks: tuple[str, ...]  # any of these roles shows that a module is in this format
    build: Callable[[ModuleTensors, Tensor], Update | None]
    """(parts, the base's parameter) -> update, if there is any. Of a parameter that another tool
    fuses from several of ours only the shape is given, unless `multiplies`."""
    multiplies: bool = False  # the update is a function of the base's parameter
    touches: str = "weight"  # or bias


def tucker(core: Tensor, right: Tensor) -> Tensor:
    """Return a core (rank, rank, *kernel) times its right factor (rank, in), flattened."""
    product = torch.einsum("mn...,nj->mj...", core.float(), right.float())
    return product.flatten(1)
