"""(IA)^3: every row or every column of a weight is multiplied by a learned number.

https://arxiv.org/abs/2205.05638. LyCORIS stores how far each number is from 1, and whether they
are the columns'; PEFT the numbers themselves, and multiplies a bias with its row.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from diffgraph.errors import DamagedFile, FamilyMismatch
from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import DerivedUpdate

ROWS, COLUMNS = 0, 1


def build(parts: ModuleTensors, base: Tensor) -> DerivedUpdate:
    """Return `W * w` along the rows or columns, as LyCORIS means it."""
    flag = parts["on_input"]
    if flag.numel() != 1:
        raise DamagedFile(f"{parts.where}: on_input is not one number")
    along = COLUMNS if bool(flag) else ROWS
    factor = parts.vector("ia3_weight", base.shape[along])
    return DerivedUpdate(_scaling(along), (factor.float(),), base)


def build_peft(parts: ModuleTensors, base: Tensor) -> DerivedUpdate:
    """Return `W * (l - 1)` along the rows or columns, as PEFT means it."""
    factor = parts.matrix("ia3_l").reshape(parts["ia3_l"].shape)
    along = _direction(factor, parts, base)
    return DerivedUpdate(_scaling(along), (parts.vector("ia3_l", base.shape[along]) - 1.0,), base)


def build_peft_bias(parts: ModuleTensors, base: Tensor) -> DerivedUpdate | None:
    """Return `b * (l - 1)`, or None where the columns are multiplied."""
    factor = parts["ia3_l"]
    if (factor.numel() if factor.ndim == 4 else factor.shape[0]) != len(base):
        return None
    return DerivedUpdate(_scaling(ROWS), (parts.vector("ia3_l", len(base)) - 1.0,), base)


def _direction(factor: Tensor, parts: ModuleTensors, base: Tensor) -> int:
    """Tell rows from columns by the shape: (out, 1) or (1, in); (1, n, 1, 1) in a convolution."""
    rows, columns = base.shape[:2]
    if factor.ndim == 4 and rows == columns:
        raise FamilyMismatch(
            f"{parts.where}: cannot tell whether ia3_l is for the rows or "
            "the columns of a convolution with as many of both"
        )
    by_rows = (factor.numel() if factor.ndim == 4 else factor.shape[0]) == rows
    return ROWS if by_rows else COLUMNS


def _scaling(along: int) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(_scaled, along=along)


def _scaled(base: Tensor, factor: Tensor, along: int) -> Tensor:
    shape = [1] * base.ndim
    shape[along] = -1
    return base * factor.float().reshape(shape)


IA3 = AdapterFormat(
    name="ia3",
    suffixes={".on_input": "on_input", ".weight": "ia3_weight"},
    marks=("on_input",),
    build=build,
    multiplies=True,
)
PEFT_IA3 = AdapterFormat(
    name="ia3",
    suffixes={".ia3_l": "ia3_l"},
    marks=("ia3_l",),
    build=build_peft,
    multiplies=True,
)
PEFT_IA3_BIAS = AdapterFormat(
    name="ia3",
    suffixes={},
    marks=("ia3_l",),
    build=build_peft_bias,
    multiplies=True,
    touches="bias",
)
