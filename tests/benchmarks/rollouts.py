"""What does one pass for many plans save?

`python tests/benchmarks/rollouts.py [--device cuda] [--plans 32] [--small]`
"""

import argparse
from collections.abc import Callable

import torch
from measuring import bundled, clock, readable, say, tell

from diffgraph.families.family import SamplerConfig
from diffgraph.merging.apply import Merger
from diffgraph.merging.batched import is_batchable, rollouts
from diffgraph.merging.fused import is_available
from diffgraph.merging.graphed import GraphedRollouts
from diffgraph.merging.precision import whole_float32


def measure(device: str, count: int, small: bool) -> dict:
    """Return images a second of plans in one pass and one at a time."""
    with whole_float32():
        return _measure(device, count, small)


def _measure(device: str, count: int, small: bool) -> dict:
    merger, files = bundled(device=device)
    deltas = {ref: delta for ref, delta in readable(merger, files).items() if delta.updates}
    deltas = {
        ref: delta for ref, delta in deltas.items() if is_batchable(merger.model, {ref: delta})
    }
    sampler = SamplerConfig(steps=2) if small else None
    kinds = {
        "4 adapters": _same(deltas, 0, 4, count),
        "8 experts, 2 of them checkpoints": _same(deltas, 2, 6, count),
        "each plan its own 4 of 12 experts": _own(deltas, count),
    }
    prompts, seeds = ["a cat"] * count, list(range(count))
    plain = _speed(lambda: merger.model.sample(prompts, seeds, sampler), count, device)
    figures: dict = {"plans": count, "one plan for all, images/s": plain}
    graphed, cuda = _graphed(merger, count), device.startswith("cuda")
    for name, plans in kinds.items():
        found = figures[name] = {}
        alone = found["one at a time, images/s"] = _alone(merger, plans, deltas, prompts, sampler)

        def together(plans=plans) -> torch.Tensor:
            with rollouts(merger, plans, deltas) as model:
                return model.sample(prompts, seeds, sampler)

        ways: dict[str, Callable[[], torch.Tensor]] = {"together": together}
        for way, graph in graphed.items():

            def recorded(plans=plans, graph=graph) -> torch.Tensor:
                with graph.rollouts(plans, deltas) as model:
                    return model.sample(prompts, seeds, sampler)

            ways[way] = recorded
        expected = _drawn_alone(merger, plans, deltas, prompts, sampler, 8 if cuda else 2)
        for way, draw in ways.items():
            try:
                images = draw().cpu()
                found[f"{way}, images/s"] = _speed(draw, count, device)
                found[f"{way}, times faster"] = round(found[f"{way}, images/s"] / alone, 1)
                found[f"{way}, largest difference of a pixel, of 255"] = round(
                    255 * float((images[: len(expected)] - expected).abs().max()), 3
                )
            except (RuntimeError, MemoryError) as error:
                found[way] = repr(error)[:300]
            say(f"{name}, {way}: {found}")
    return figures


def _graphed(merger: Merger, count: int) -> dict[str, GraphedRollouts]:
    if not is_available(merger.model.device):
        return {}
    return {"recorded": GraphedRollouts(merger, count)}


def _same(deltas: dict, checkpoints: int, others: int, count: int) -> list[dict[str, float]]:
    """Return plans of the same experts, each with coefficients of its own."""
    whole = [ref for ref, delta in deltas.items() if delta.format == "checkpoint"]
    chosen = whole[:checkpoints] + [ref for ref in deltas if ref not in whole][:others]
    draws = torch.rand(count, len(chosen), generator=torch.Generator().manual_seed(1))
    return [dict(zip(chosen, row, strict=True)) for row in draws.tolist()]


def _own(deltas: dict, count: int) -> list[dict[str, float]]:
    """Return plans of different experts."""
    generator = torch.Generator().manual_seed(2)
    refs = list(deltas)[::4][:12]
    plans = []
    for _ in range(count):
        chosen = torch.randperm(len(refs), generator=generator)[:4].tolist()
        draws = torch.rand(4, generator=generator).tolist()
        plans.append({refs[place]: value for place, value in zip(chosen, draws, strict=True)})
    return plans


def _alone(merger, plans, deltas, prompts, sampler) -> float:
    """Return the images a second of some of the plans, one at a time."""
    device = str(merger.model.device)
    some = 8 if device.startswith("cuda") else 2
    return _speed(lambda: _drawn_alone(merger, plans, deltas, prompts, sampler, some), some, device)


def _drawn_alone(merger, plans, deltas, prompts, sampler, some) -> torch.Tensor:
    images = []
    for seed, plan in enumerate(plans[:some]):
        merger.apply(plan, deltas)
        images.append(merger.model.sample([prompts[seed]], [seed], sampler).cpu())
    merger.reset()
    return torch.cat(images)


def _speed(draw: Callable[[], torch.Tensor], count: int, device: str) -> float:
    """Return images a second: the best of some runs, after one that warms up."""
    taken = []
    for _ in range(6 if device.startswith("cuda") else 2):
        start = clock()
        draw().cpu()
        taken.append(clock() - start)
    return round(count / min(taken[1:]), 2)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plans", type=int, default=32)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    tell(f"rollouts, {given.device}", measure(given.device, given.plans, given.small))


if __name__ == "__main__":
    main()
