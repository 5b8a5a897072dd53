"""LoHa: two low-rank products, multiplied entry by entry.

https://arxiv.org/abs/2108.06098, as LyCORIS writes it. In its Tucker form the left factors lie
transposed, and the rank is that of the right ones.
"""

import torch
from torch import Tensor

from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors, tucker
from diffgraph.experts.updates import HadamardUpdate


def build(parts: ModuleTensors, base: Tensor) -> HadamardUpdate:
    """Return `alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b)`."""
    shape = base.shape
    up_1, down_1 = _half(parts, "1", shape)
    up_2, down_2 = _half(parts, "2", shape)
    scale = parts.scale(parts["hada_w1_b"].shape[0])
    return HadamardUpdate(up_1, down_1, up_2, down_2, scale, shape)


def _half(parts: ModuleTensors, number: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
    core_role, left, right = f"hada_t{number}", f"hada_w{number}_a", f"hada_w{number}_b"
    if core_role not in parts:
        up, down = parts.product(left, right)
        parts.fits((up.shape[0], *parts[right].shape[1:]), shape)
        return up, down
    core, up, down = parts[core_role], parts.matrix(left).T, parts.matrix(right)
    parts.agree(f"{left} and {core_role}", up.shape[1], core.shape[0])
    parts.agree(f"{core_role} and {right}", core.shape[1], down.shape[0])
    parts.fits((up.shape[0], down.shape[1], *core.shape[2:]), shape)
    return up, tucker(core, down)


ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")

LOHA = AdapterFormat(
    name="loha", suffixes={f".{role}": role for role in ROLES}, marks=ROLES, build=build
)
