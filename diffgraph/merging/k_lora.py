"""Which of two LoRAs draws each layer at each denoising step?

K-LoRA, https://arxiv.org/abs/2502.18461, needs no training: a layer is the content expert's while
its largest entries outweigh the style expert's, and the style's weight in that comparison grows
with the denoising. What is compared does not change while an image is drawn, so that the whole
schedule is known before its first step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import HadamardUpdate, LowRankUpdate, Update
from diffgraph.merging.plan import MergePlan

DENOISERS = ("unet.", "transformer.")
"""What runs at every step; the text encoders run once, with both experts."""

PLACES: Mapping[str, int] = {
    "down_blocks": 0,
    "mid_block": 1,
    "up_blocks": 2,
    "single_transformer_blocks": 2,
}
"""Which blocks run before which; what is not named runs first."""

USUAL_RANK = 64  # of an update that is not kept in factors
OUTLIER = 3.0  # layers whose ratio is this many times the mean do not count for the balance


@dataclass(frozen=True)
class LayerComparison:
    """A parameter that both experts change."""

    name: str
    content: float  # the sum of the largest magnitudes of its update
    style: float

    def prefers_content(self, balance: float, weight: float) -> bool:
        return self.content > balance * self.style * weight


def schedule(
    plan: MergePlan, deltas: Mapping[str, Delta], steps: int
) -> Sequence[Mapping[str, Delta]]:
    """Return what is merged for each denoising step: the deltas with the layers they draw then.

    Merge each linearly, with the plan's coefficients. Steps with the same choice share one object.
    """
    if plan.rule != "k_lora":
        raise PlanError(f"the rule {plan.rule} is the same at every step")
    content = str(plan.parameters["content"])
    style = next(item.ref for item in plan.experts if item.kind == "peft" and item.ref != content)
    if content not in deltas or style not in deltas:  # left out by a coefficient of 0
        return [deltas] * steps
    compared, balance = compare(deltas[content], deltas[style])
    found: list[Mapping[str, Delta]] = []
    last: frozenset[str] | None = None
    for step in range(steps):
        weights = style_weights(plan, step, steps, len(compared))
        chosen = frozenset(
            layer.name
            for layer, weight in zip(compared, weights, strict=True)
            if layer.prefers_content(balance, weight)
        )
        if chosen != last:
            last = chosen
            rest = {layer.name for layer in compared} - chosen
            given = {
                content: _without(deltas[content], rest),
                style: _without(deltas[style], chosen),
            }
            found.append({**deltas, **given})
        else:
            found.append(found[-1])
    return found


def compare(content: Delta, style: Delta) -> tuple[list[LayerComparison], float]:
    """Return the layers that both change, as they run, and what balances the two experts.

    The balance is the mean ratio of all magnitudes, without the layers where it is extreme.
    """
    both = [name for name in content.updates if name in style.updates]
    names = sorted((name for name in both if name.startswith(DENOISERS)), key=_run_order)
    compared, ratios = [], []
    for name in names:
        first, second = content.updates[name], style.updates[name]
        sizes = [update.dense().abs().flatten() for update in (first, second)]
        count = min(rank_of(first) * rank_of(second), sizes[0].numel())
        tops = [float(size.topk(count, sorted=False).values.double().sum()) for size in sizes]
        totals = [float(size.double().sum()) for size in sizes]
        compared.append(LayerComparison(name, *tops))
        if totals[1] > 0:
            ratios.append(totals[0] / totals[1])
    if not ratios:
        return compared, 1.0
    mean = sum(ratios) / len(ratios)
    usual = [ratio for ratio in ratios if ratio < OUTLIER * mean]
    return compared, sum(usual) / len(usual)


def style_weights(plan: MergePlan, step: int, steps: int, layers: int) -> Iterator[float]:
    """Yield the style's weight for each layer of a step, in the order the layers run."""
    alpha, beta = float(plan.parameters["alpha"]), float(plan.parameters["beta"])
    for layer in range(layers):
        progress = (step * layers + layer) / (steps * layers)
        weight = alpha * progress + beta
        yield weight % alpha if plan.parameters["wraps"] else weight


def rank_of(update: Update) -> int:
    """Return the rank an update is stored with, or the usual one."""
    if isinstance(update, LowRankUpdate):
        return update.up.shape[1]
    if isinstance(update, HadamardUpdate):
        return update.up_1.shape[1]
    return USUAL_RANK


def _run_order(name: str) -> tuple[int, list[str]]:
    """Sort parameters as they run: blocks in their order, and numbers as numbers."""
    parts = name.split(".")
    place = next((number for part, number in PLACES.items() if part in parts), 0)
    return place, [part.zfill(8) if part.isdigit() else part for part in parts]


def _without(delta: Delta, names: frozenset[str] | set[str]) -> Delta:
    kept = {name: update for name, update in delta.updates.items() if name not in names}
    return replace(delta, updates=kept)
