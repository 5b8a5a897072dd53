"""What is the nearest LoRA to what a plan's PEFT experts do together?

For tools that load a LoRA and no merged model. Each weight's change is cut to its largest singular
values, the nearest of that rank (Eckart and Young, https://doi.org/10.1007/BF02288367). Changes of
biases and norms have no place in a LoRA; how much of the whole is kept is told.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.naming import diffusers, kohya
from diffgraph.experts.updates import LowRankUpdate, Update
from diffgraph.merging.base_files import BaseFiles
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.provenance import ARCHITECTURES
from diffgraph.merging.rules import PlannedMerge
from diffgraph.merging.weights_writer import new_weights

OVERSAMPLED = 16  # directions more than are kept, by which the randomised search finds these well
ROUNDS = 4  # of power iteration: the spectra of deltas fall slowly
EXACT_SIDE = 384  # up to which all singular values are found: it takes no time


@dataclass(frozen=True)
class Factors:
    """One weight's part in a LoRA."""

    up: Tensor  # (out, rank)
    down: Tensor  # (rank, in * kernel)
    shape: torch.Size  # of the weight
    energy: float  # the squared Frobenius norm of the whole change
    lost: float  # of what the factors leave out


@dataclass(frozen=True)
class NearestLora:
    """A LoRA's tensors, and how near it is."""

    tensors: Mapping[str, Tensor]  # with kohya's names
    kept: float  # the share of the squared norm of all changes, 0 to 1
    left_out: tuple[str, ...]  # changed parameters that a LoRA has no place for
    rank: int = 0  # the largest of any weight's factors


@torch.no_grad()
def nearest_lora(
    plan: MergePlan,
    deltas: Mapping[str, Delta],
    base: BaseFiles,
    rank: int,
    dtype: torch.dtype = torch.float16,
) -> NearestLora:
    """Return the LoRA nearest to the sum of the plan's PEFT experts; checkpoints are not in it.

    Args:
        plan: what is merged.
        deltas: of the plan's experts, by reference.
        base: the base's files.
        rank: of the LoRA, the same for every weight, or the weight's own side if that is less.
        dtype: of its tensors.

    Raises:
        PlanError: the plan has no PEFT experts, its rule mixes them with the checkpoints or makes
            no one model, they change nothing that a LoRA has a place for, or too much for its type.
        MissingInput: the base's file holds NaN or infinite numbers where they are needed.
    """
    refs = _peft(plan)
    planned = PlannedMerge(plan)
    by_kohya = any(name.startswith("unet.") for name in base.merged)
    tensors: dict[str, Tensor] = {}
    energy = lost = 0.0
    largest = 0
    left_out = []
    for name in sorted({name for ref in refs for name in deltas[ref].updates}):
        weight = base.weight(name)
        updates = {ref: deltas[ref].updates[name] for ref in refs if name in deltas[ref].updates}
        try:
            if weight.ndim < 2 or not name.endswith(".weight"):
                change = planned.parameter(name, weight, updates) - weight
                energy += (size := _finite(float(change.double().square().sum())))
                lost += size
                left_out.append(name)
                continue
            found = factors(name, weight, updates, planned, rank)
            energy, lost = energy + _finite(found.energy), lost + found.lost
        except (ArithmeticError, RuntimeError) as error:  # also of a decomposition
            for ref in updates:
                deltas[ref].check(name)
            base.merged[name].check()
            raise PlanError(f"plan {plan.id}: what it does to {name} is no number") from error
        named = _named(name, found, dtype, by_kohya)
        if not all(bool(value.isfinite().all()) for value in named.values()):
            type_name = str(dtype).removeprefix("torch.")
            raise PlanError(
                f"plan {plan.id}: the factors of {name} are too large for {type_name}; "
                "smaller coefficients or another type would do"
            )
        tensors.update(named)
        largest = max(largest, found.down.shape[0])
        base.merged[name].release()
        for ref in updates:
            deltas[ref].release(name)
    if not tensors:
        raise PlanError(
            f"plan {plan.id}: its PEFT experts change norms and biases only, {len(left_out)} of "
            "them, and a LoRA has no place for these"
            if left_out
            else f"plan {plan.id}: its PEFT experts change nothing: there is no LoRA to make"
        )
    kept = 1 - lost / energy if energy else 1.0
    return NearestLora(tensors, max(0.0, kept), tuple(left_out), largest)


def factors(
    name: str, weight: Tensor, updates: Mapping[str, Update], planned: PlannedMerge, rank: int
) -> Factors:
    """Return the factors of the nearest change of a rank."""
    if planned.is_linear and all(isinstance(update, LowRankUpdate) for update in updates.values()):
        up, values, down = _of_factors(_low_rank(updates, planned))
        energy = float(values.square().sum())
    else:
        change = planned.parameter(name, weight, updates).sub_(weight).flatten(1)
        energy = float(change.double().square().sum())
        up, values, down = _largest(change, rank, name)
    count = min(rank, *up.shape, *down.shape)
    values = values[:count].double()
    # each factor takes the root, so that neither overflows half precision
    root = values.clamp_min(0).sqrt()
    return Factors(
        (up[:, :count].double() * root).float(),
        (root[:, None] * down[:count].double()).float(),
        weight.shape,
        energy,
        max(0.0, energy - float(values.square().sum())),
    )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ArithmeticError
    return value


def _peft(plan: MergePlan) -> list[str]:
    coefficients = plan.coefficients()
    refs = sorted(
        expert.ref
        for expert in plan.experts
        if expert.kind == "peft" and coefficients[expert.ref] != 0
    )
    if not refs:
        raise PlanError(f"plan {plan.id} has no PEFT experts: there is nothing to make a LoRA of")
    if not plan.is_linear and len(refs) < len([ref for ref in coefficients if coefficients[ref]]):
        raise PlanError(
            f"the rule {plan.rule} mixes PEFT experts with checkpoints: their part is no LoRA"
        )
    return refs


def _low_rank(
    updates: Mapping[str, Update], planned: PlannedMerge
) -> Iterator[tuple[Tensor, Tensor]]:
    for ref in planned.used(updates):
        update = updates[ref]
        if isinstance(update, LowRankUpdate):
            scale = planned.coefficients[ref] * update.scale
            yield scale * update.up.double(), update.down.double()


def _of_factors(terms: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular values and vectors of a sum of products, without multiplying them out."""
    ups, downs = zip(*terms, strict=True)
    left, inner_left = torch.linalg.qr(torch.cat(ups, dim=1))
    right, inner_right = torch.linalg.qr(torch.cat(downs).T)
    inner = torch.linalg.svd(inner_left @ inner_right.T, full_matrices=False)
    return left @ inner.U, inner.S, inner.Vh @ right.T


def _largest(change: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest singular values of a matrix, and their vectors.

    Randomised subspace iteration, https://arxiv.org/abs/0909.4061, with the parameter's own seed.
    """
    count = rank + OVERSAMPLED
    if min(change.shape) <= max(EXACT_SIDE, count):
        found = torch.linalg.svd(change.double(), full_matrices=False)
        return found.U, found.S, found.Vh
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    start = torch.randn(change.shape[1], count, generator=torch.Generator("cpu").manual_seed(seed))
    basis = torch.linalg.qr(change @ start).Q
    for _ in range(ROUNDS):
        across = torch.linalg.qr(change.T @ basis).Q
        basis = torch.linalg.qr(change @ across).Q
    inner = torch.linalg.svd((basis.T @ change).double(), full_matrices=False)
    return basis.double() @ inner.U, inner.S, inner.Vh


def _named(name: str, found: Factors, dtype: torch.dtype, by_kohya: bool) -> dict[str, Tensor]:
    module = name.removesuffix(".weight")
    rank, kernel = found.down.shape[0], found.shape[2:]
    down = found.down.reshape(rank, *found.shape[1:]).to(dtype)
    up = found.up.reshape(*found.up.shape, *(1,) * len(kernel)).to(dtype)
    if by_kohya:
        module = next(iter(kohya(module)))
        alpha = torch.tensor(float(rank), dtype=dtype)
        return {
            f"{module}.alpha": alpha,
            f"{module}.lora_down.weight": down,
            f"{module}.lora_up.weight": up,
        }
    # kohya fuses what FLUX's makers fuse; diffusers' names are read as widely, and are ours
    *_, module = diffusers(module)
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


def write_lora(path: Path, lora: NearestLora, metadata: Mapping[str, str]) -> None:
    """Write a LoRA, whole or not at all; raises `StorageError`."""
    shapes = {key: value.shape for key, value in lora.tensors.items()}
    dtype = next(iter(lora.tensors.values())).dtype
    with new_weights(path, shapes, dtype, metadata) as writer:
        for key, value in lora.tensors.items():
            writer.write(key, value.contiguous())


def lora_metadata(lora: NearestLora, family: str) -> dict[str, str]:
    """Return what kohya's tools write into a LoRA's metadata, as far as it is true of ours."""
    versions = {"sd15": "sd_v1", "flux": "flux1"}
    return {
        "modelspec.architecture": f"{ARCHITECTURES.get(family, family)}/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(float(lora.rank)),
        "ss_base_model_version": versions.get(family, family),
        "diffgraph.kept": f"{lora.kept:.6f}",
    }
