"""LoHa: two low-rank products, multiplied entry by entry.

https://arxiv.org/abs/2108.06098, as LyCORIS writes it. In its Tucker form the left factors lie
transposed, and the rank is that of the right ones.
"""

from torch import Tensor

from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import HadamardUpdate


def build(parts: ModuleTensors, base: Tensor) -> HadamardUpdate:
    """Return `alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b)`."""
    first, second = (
        parts.factors(f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}", base.shape, turned=True)
        for n in (1, 2)
    )
    return HadamardUpdate(*first, *second, parts.scale(parts["hada_w1_b"].shape[0]), base.shape)


ROLES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")

LOHA = AdapterFormat(
    name="loha", suffixes={f".{role}": role for role in ROLES}, marks=ROLES, build=build
)
