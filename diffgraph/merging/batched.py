"""How are many merges of the same experts tried in one forward pass?

Learning tries dozens of coefficient sets for one prompt. Merged one at a time, each would be a pass
of one image. Here every image of a batch has its own coefficients: a layer that experts touch adds
`B (s_i * (A x_i))` for low-rank updates, or multiplies each image by a weight of its own. The same
result as `Merger`, but for float32's rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import LowRankUpdate, Update, against, moved
from diffgraph.families.family import ResidentModel
from diffgraph.merging.apply import (
    Coefficients,
    Merger,
    concatenated,
    demand_sums,
)
from diffgraph.merging.plan import MergePlan

MAX_RANK_SHARE = 0.25
"""Low-rank updates stay in factors while their ranks sum to at most this share of a side."""

DENOISERS = ("unet.", "transformer.")
TEXT_ENCODER = "text_encoder."  # of a Stable Diffusion model: it sees one prompt an image

KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
"""Modules that can have weights for each image."""

Forward: TypeAlias = Callable[[Tensor], Tensor]
Terms: TypeAlias = list[tuple[int, Update]]
"""(an expert's column among the coefficients, its update)."""


def is_batchable(model: ResidentModel, deltas: Mapping[str, Delta]) -> bool:
    """Whether these experts change nothing but what `rollouts` can give each image its own of."""
    modules = model.modules()
    owners = {name.rpartition(".")[0] for delta in deltas.values() for name in delta.updates}
    components = {owner.partition(".")[0] for owner in modules}
    prefixes = (*DENOISERS, TEXT_ENCODER) if "unet" in components else DENOISERS
    return all(
        owner.startswith(prefixes) and isinstance(modules.get(owner), KINDS) for owner in owners
    )


@contextmanager
def rollouts(
    merger: Merger, plans: Sequence[MergePlan | Coefficients], deltas: Mapping[str, Delta]
) -> Iterator[ResidentModel]:
    """Yield the model; inside, image i of every batch is drawn as if merged by plan i.

    A batch holds one image a plan, or a multiple of that in the same order (guidance doubles it).
    Experts with one coefficient in all plans are merged; only the others cost each image something,
    and must be `is_batchable`. The model's weights are the base's after the block.
    """
    wanted, refs = demand_sums(plans, deltas)
    common = {ref: wanted[0].get(ref, 0.0) for ref in refs}
    common = {r: v for r, v in common.items() if all(own.get(r, 0.0) == v for own in wanted)}
    refs = [ref for ref in refs if ref not in common]
    modules, model = merger.model.modules(), merger.model
    layers = _layers(model, {ref: deltas[ref] for ref in refs})
    rows = [[row.get(ref, 0.0) for ref in refs] for row in wanted]
    coefficients = torch.tensor(rows, dtype=torch.float32, device=model.device)
    try:
        merger.apply(common, deltas)
        for owner, terms in layers.items():
            layer = _Layer(owner, modules[owner], terms, merger, coefficients)
            modules[owner].forward = layer.forward()
        if any(owner.startswith(TEXT_ENCODER) for owner in layers):
            _embed_for_each(model, len(plans))
        yield model
    finally:
        model.__dict__.pop("embed", None)
        for owner in layers:
            modules[owner].__dict__.pop("forward", None)
        merger.reset()


def _embed_for_each(model: Any, count: int) -> None:
    """Let a single prompt be read by every image's own text encoder."""
    embed = model.embed

    def each(texts: Sequence[str], *how: Any) -> Tensor:
        read: Tensor = embed(list(texts) * count if len(texts) == 1 else texts, *how)
        return read

    model.embed = each


def _layers(model: ResidentModel, deltas: Mapping[str, Delta]) -> dict[str, dict[str, Terms]]:
    """Return module -> `weight` or `bias` -> what touches it."""
    if not is_batchable(model, deltas):
        raise PlanError("these experts change what images share: merge their plans one at a time")
    layers: dict[str, dict[str, Terms]] = {}
    for column, delta in enumerate(deltas.values()):
        for name, update in delta.updates.items():
            owner, _, kind = name.rpartition(".")
            layers.setdefault(owner, {}).setdefault(kind, []).append((column, update))
    return layers


@dataclass(frozen=True)
class _Layer:
    """A module that experts touch, and each image's coefficients."""

    name: str
    module: nn.Module
    terms: Mapping[str, Terms]
    merger: Merger
    coefficients: Tensor  # (images, experts)

    def forward(self) -> Forward:
        module = self.module
        if isinstance(module, nn.Linear | nn.Conv2d) and (factors := self._factors()):
            if isinstance(module, nn.Linear):
                return _added_linear(module, *factors)
            return _added_convolution(module, *factors)
        weight, bias = self._values("weight"), self._values("bias")
        if weight is not None and not isinstance(module, nn.GroupNorm | nn.LayerNorm):
            weight = weight.expand(len(self.coefficients), *weight.shape[1:])
        return own_forward(self.name, module, weight, bias)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return (ranks, in * kernel), (images, ranks), (out, ranks), if that is less work."""
        items = [
            (column, item)
            for column, item in self.terms.get("weight", [])
            if isinstance(item, LowRankUpdate)
        ]
        if not items or len(items) < sum(len(terms) for terms in self.terms.values()):
            return None
        ranks = [item.down.shape[0] for _, item in items]
        shape = items[0][1].shape
        if sum(ranks) > MAX_RANK_SHARE * min(shape[0], shape[1:].numel()):
            return None
        weight = self.merger.base[f"{self.name}.weight"]
        whole = concatenated([(1.0, moved(item, weight.device)) for _, item in items])
        columns = [column for column, item in items for _ in range(item.down.shape[0])]
        return whole.down.to(weight), self.coefficients[:, columns].to(weight), whole.up.to(weight)

    def _values(self, kind: str) -> Tensor | None:
        """Return a parameter for each image (images, *shape), or one for all (1, *shape)."""
        base = self.merger.base.get(f"{self.name}.{kind}")
        if base is None:
            return None
        live: Tensor = getattr(self.module, kind).data  # with what all images share
        terms = self.terms.get(kind)
        if not terms:
            return live[None]
        columns = [column for column, _ in terms]
        values = torch.stack([moved(against(item, base), base.device).dense() for _, item in terms])
        added = self.coefficients[:, columns] @ values.flatten(1)
        return (live.float() + added.reshape(-1, *base.shape)).to(base.dtype)


def own_forward(
    name: str,
    module: nn.Module,
    weight: Tensor | None,
    bias: Tensor | None,
    as_products: bool = False,
) -> Forward:
    """Return what a module computes when every image has its own weight and bias.

    Args:
        name: of the module.
        module: whose sizes, strides and the like are kept.
        weight: (images, *shape); a linear layer or a convolution has one.
        bias: (images or 1, *shape), if the module has one.
        as_products: make convolutions matrix products: faster on a GPU where images are small.
    """
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        return _normalisation(module, weight, bias)
    if isinstance(module, nn.Linear) and weight is not None:
        return _linear(weight, bias)
    if isinstance(module, nn.Conv2d) and weight is not None:
        convolution = _convolution_by_columns if as_products else _convolution
        return convolution(module, weight, bias)
    if isinstance(module, nn.Embedding) and weight is not None:
        return _embedding(weight)
    raise PlanError(f"{name}: a {type(module).__name__} cannot differ between images")


def _passes(states: Tensor, count: int) -> int:
    """Return how many times a batch holds each plan's image."""
    times, left = divmod(len(states), count)
    if left:
        raise PlanError(f"a batch of {len(states)} cannot hold the images of {count} plans")
    return times


def _tiled(values: Tensor, states: Tensor) -> Tensor:
    return values.repeat(_passes(states, len(values)), *(1,) * (values.ndim - 1))


def _added_linear(module: nn.Linear, down: Tensor, strengths: Tensor, up: Tensor) -> Forward:
    def forward(states: Tensor) -> Tensor:
        inner = functional.linear(states, down)
        rows = _tiled(strengths, states)
        inner = inner * rows.reshape(len(states), *(1,) * (states.ndim - 2), -1)
        whole = functional.linear(states, module.weight, module.bias)
        return whole + functional.linear(inner, up)

    return forward


def _added_convolution(module: nn.Conv2d, down: Tensor, strengths: Tensor, up: Tensor) -> Forward:
    kernel = down.reshape(-1, *module.weight.shape[1:])

    def forward(states: Tensor) -> Tensor:
        inner = _convolved(module, states, kernel, None)
        inner = inner * _tiled(strengths, states)[:, :, None, None]
        whole = _convolved(module, states, module.weight, module.bias)
        return whole + functional.conv2d(inner, up[:, :, None, None])

    return forward


def _linear(weight: Tensor, bias: Tensor | None) -> Forward:
    count, _, width = weight.shape
    across = weight.transpose(1, 2)  # (images, in, out)

    def forward(states: Tensor) -> Tensor:
        times, inner = _passes(states, count), states.shape[1:-1]
        rows = states.reshape(times, count, -1, width).transpose(0, 1).reshape(count, -1, width)
        result = torch.bmm(rows, across)
        if bias is not None:
            result = result + bias[:, None]
        result = result.reshape(count, times, -1, result.shape[-1]).transpose(0, 1)
        return result.reshape(times * count, *inner, result.shape[-1])

    return forward


def _convolution(module: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Forward:
    count, out = weight.shape[:2]
    kernels = weight.reshape(count * out, *weight.shape[2:])
    offsets = None if bias is None else bias.expand(count, out).reshape(-1)

    def forward(states: Tensor) -> Tensor:
        # the images side by side as groups of channels: one convolution, each group its own kernel
        beside = states.reshape(_passes(states, count), -1, *states.shape[2:])
        result = _convolved(module, beside, kernels, offsets, groups=count)
        return result.reshape(len(states), out, *result.shape[2:])

    return forward


def _convolution_by_columns(module: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Forward:
    count, out = weight.shape[:2]
    kernels = weight.flatten(2)  # (images, out, in * kernel)
    (high, wide), (down, across) = module.kernel_size, module.stride
    if (
        isinstance(module.padding, str)
        or module.padding_mode != "zeros"
        or module.groups > 1
        or module.dilation != (1, 1)
    ):
        return _convolution(module, weight, bias)
    above, before = module.padding
    edges = [int(before)] * 2 + [int(above)] * 2

    def forward(states: Tensor) -> Tensor:
        times = _passes(states, count)
        patches = functional.pad(states, edges) if any(edges) else states
        patches = patches.unfold(2, high, down).unfold(3, wide, across)
        height, width = patches.shape[2:4]
        patches = patches.reshape(times, count, *patches.shape[1:]).permute(1, 2, 5, 6, 0, 3, 4)
        columns = patches.reshape(count, kernels.shape[2], -1)
        if bias is None:
            result = torch.bmm(kernels, columns)
        else:
            result = torch.baddbmm(bias[:, :, None], kernels, columns)
        result = result.reshape(count, out, times, height, width).permute(2, 0, 1, 3, 4)
        return result.reshape(len(states), out, height, width)

    return forward


def _convolved(
    module: nn.Conv2d, states: Tensor, kernel: Tensor, bias: Tensor | None, groups: int = 1
) -> Tensor:
    return functional.conv2d(
        states, kernel, bias, module.stride, module.padding, module.dilation, groups
    )


def _embedding(weight: Tensor) -> Forward:
    count = len(weight)

    def forward(tokens: Tensor) -> Tensor:
        tokens = tokens.expand(count, -1) if len(tokens) == 1 else tokens  # positions
        images = torch.arange(count, device=tokens.device).repeat(_passes(tokens, count))
        return weight[images[:, None], tokens]

    return forward


def _normalisation(
    module: nn.GroupNorm | nn.LayerNorm, weight: Tensor | None, bias: Tensor | None
) -> Forward:
    def forward(states: Tensor) -> Tensor:
        ones = (1,) * (states.ndim - 2)
        if isinstance(module, nn.GroupNorm):
            result = functional.group_norm(states, module.num_groups, eps=module.eps)
            shape = (len(states), -1, *ones)
        else:
            result = functional.layer_norm(states, module.normalized_shape, eps=module.eps)
            shape = (len(states), *ones, -1)
        if weight is not None:
            result = result * _tiled(weight, states).reshape(shape)
        if bias is not None:
            result = result + _tiled(bias, states).reshape(shape)
        return result

    return forward
