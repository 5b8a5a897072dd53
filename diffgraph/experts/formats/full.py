"""Full differences: what is added to a weight or a bias, stored whole.

LyCORIS's `full` and norms, ComfyUI's differences of models, biases beside any other format.
"""

from torch import Tensor

from diffgraph.errors import FamilyMismatch
from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.formats.checkpoint import squeezed
from diffgraph.experts.updates import DenseUpdate


def _builder(role: str) -> AdapterFormat:
    kind = "bias" if role.endswith("_b") or role == "b_norm" else "weight"

    def build(parts: ModuleTensors, base: Tensor) -> DenseUpdate:
        value = parts[role]
        if squeezed(value.shape) != squeezed(base.shape):
            raise FamilyMismatch(
                f"{parts.where}: {role} is {tuple(value.shape)}, "
                f"the base model's {kind} is {tuple(base.shape)}"
            )
        return DenseUpdate(value.reshape(base.shape))

    name = "norm" if "norm" in role else "full"
    return AdapterFormat(name, {f".{role}": role}, (role,), build, touches=kind)


FULL, FULL_BIAS, NORM, NORM_BIAS = map(_builder, ("diff", "diff_b", "w_norm", "b_norm"))
"""https://github.com/KohakuBlueleaf/LyCORIS/tree/main/lycoris/modules"""
