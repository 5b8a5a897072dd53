"""GLoRA: a low-rank product, and another one by which the base's weight is multiplied.

https://arxiv.org/abs/2306.07967, as LyCORIS writes it: `scale * (B1 B2 + W A1 A2)`.
"""

import torch
from torch import Tensor

from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import DerivedUpdate


def build(parts: ModuleTensors, base: Tensor) -> DerivedUpdate:
    """Return `alpha / rank * (b1 @ b2 + W @ a1 @ a2)`, the last over a convolution's inputs."""
    shape = base.shape
    up, down = parts.factors("b1", "b2", "bm", shape)
    first, second = parts.product("a1", "a2")
    parts.fits((shape[0], first.shape[0], *shape[2:]), shape)
    parts.fits((shape[0], second.shape[1], *shape[2:]), shape)
    scale = torch.tensor(parts.scale(parts["b2"].shape[0]))
    return DerivedUpdate(_change, (up, down, first, second, scale), base)


def _change(
    base: Tensor, up: Tensor, down: Tensor, first: Tensor, second: Tensor, scale: Tensor
) -> Tensor:
    # (out, in, kernel) with the inputs last: the product runs over them alone
    inputs = base.flatten(2).transpose(1, 2) if base.ndim > 2 else base[:, None]
    turned = (inputs @ first.float()) @ second.float()
    turned = turned.transpose(1, 2).reshape(base.shape)
    return turned.add_((up.float() @ down.float()).reshape(base.shape)).mul_(float(scale))


ROLES = ("a1", "a2", "b1", "b2", "bm")

GLORA = AdapterFormat(
    name="glora",
    suffixes={f".{role}.weight": role for role in ROLES},
    marks=("a1", "a2", "b1", "b2"),
    build=build,
    multiplies=True,
)
