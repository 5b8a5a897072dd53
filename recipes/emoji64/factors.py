"""How does an adapter go on learning in the very tensors that its file ships?

A file that `writing.py` wrote becomes trainable again: its factors are float32 leaves, the update
of every weight is worked out from them as the readers do it, and saving writes the same keys, types
and header. So several adapters of different formats can learn in one model at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.artifacts import new_file
from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import read_delta
from diffgraph.experts.updates import (
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    RenormalisedUpdate,
)

ROLES = {
    ".lora_down.weight": "down",
    ".lora_A.weight": "down",
    ".lora_up.weight": "up",
    ".lora_B.weight": "up",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".hada_w1_a": "up_1",
    ".hada_w1_b": "down_1",
    ".hada_w2_a": "up_2",
    ".hada_w2_b": "down_2",
    ".lokr_w1": "left",
    ".lokr_w2": "right",
}
"""What the end of a key that learns says of it; everything else in a file stays as it is."""

Factors = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Part:
    """What a file adds to one weight."""

    factors: Factors  # role -> leaf
    scale: float
    base: Tensor

    def update(self) -> Tensor:
        """Return the update, shaped like its weight."""
        kind = next(own for role, own in KINDS.items() if role in self.factors)
        return kind(self.factors, self.scale, self.base)


class TrainableAdapter:
    """An adapter's file whose factors learn."""

    def __init__(self, path: Path, parameters: Mapping[str, Tensor]) -> None:
        """Read a file.

        Args:
            path: a file that `write_adapter` wrote.
            parameters: the base's weights by our names; they must stay as they are.

        Raises:
            ValueError: one of its updates is of a kind that does not learn.
        """
        self.tensors = load_file(path)
        with safe_open(path, "pt") as file:
            self.metadata: dict[str, str] = dict(file.metadata() or {})
        cpu = {name: value.detach().cpu().clone() for name, value in parameters.items()}
        delta = read_delta(path, cpu)
        self.leaves: dict[str, Tensor] = {}
        self.parts: dict[str, _Part] = {}
        for name, keys in _keys(delta).items():
            base = parameters[name].detach().clone()
            roles = {role: key for key in keys if (role := _role(key))}
            for key in roles.values():
                leaf = self.tensors[key].to(base.device, torch.float32, copy=True)
                self.leaves[key] = leaf.requires_grad_()
            factors = {role: self.leaves[key] for role, key in roles.items()}
            self.parts[name] = _Part(factors, _scale(delta, name), base)

    def parameters(self) -> list[Tensor]:
        """Return what learns."""
        return list(self.leaves.values())

    def updates(self) -> dict[str, Tensor]:
        """Return what it adds to each weight at coefficient 1; gradients reach the factors."""
        return {name: part.update() for name, part in self.parts.items()}

    def save(self, path: Path) -> None:
        """Write the file again with what was learnt.

        Raises:
            ValueError: a factor does not fit the type of its file.
        """
        made = dict(self.tensors)
        for key, leaf in self.leaves.items():
            made[key] = leaf.detach().cpu().to(self.tensors[key].dtype).contiguous()
            if not torch.isfinite(made[key].float()).all():
                raise ValueError(f"{path.name}: {key} does not fit {made[key].dtype}")
        with new_file(path) as part:
            save_file(made, part, self.metadata)


def _low_rank(factors: Factors, scale: float, base: Tensor) -> Tensor:
    product = factors["up"].flatten(1) @ factors["down"].flatten(1)
    added: Tensor = (scale * product).view(base.shape)
    if "magnitude" not in factors:
        return added
    whole = base + added
    norm = torch.linalg.vector_norm(whole.flatten(1), dim=1)
    factor = (factors["magnitude"].flatten() / norm - 1).view(-1, *(1,) * (base.ndim - 1))
    moved: Tensor = added + factor * whole
    return moved


def _hadamard(factors: Factors, scale: float, base: Tensor) -> Tensor:
    first = factors["up_1"] @ factors["down_1"]
    return (scale * first * (factors["up_2"] @ factors["down_2"])).view(base.shape)


def _kronecker(factors: Factors, scale: float, base: Tensor) -> Tensor:
    left, right = factors["left"], factors["right"]
    rows, columns = left.shape
    height, width = right.shape[:2]
    blocks = left.view(rows, 1, columns, 1, 1) * right.reshape(1, height, 1, width, -1)
    return (scale * blocks).reshape(base.shape)


KINDS: Mapping[str, Callable[[Factors, float, Tensor], Tensor]] = {
    "up": _low_rank, "up_1": _hadamard, "left": _kronecker,
}  # fmt: skip
"""By a role that only one kind of adapter has: LoRA, LoCon and DoRA; LoHa; LoKr."""


def _keys(delta: Delta) -> Mapping[str, tuple[str, ...]]:
    if delta.origin is None:
        raise ValueError("a delta without a file")
    return delta.origin.keys


def _role(key: str) -> str | None:
    return next((role for suffix, role in ROLES.items() if key.endswith(suffix)), None)


def _scale(delta: Delta, name: str) -> float:
    update = delta.updates[name]
    found = update.direction if isinstance(update, RenormalisedUpdate) else update
    if not isinstance(found, LowRankUpdate | HadamardUpdate | KroneckerUpdate):
        raise ValueError(f"nothing that changes {name} learns: it is a {type(found).__name__}")
    return found.scale
