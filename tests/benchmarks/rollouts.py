"""What does one pass for many plans save? `python tests/benchmarks/rollouts.py [device] [plans]`"""

import sys

import torch
from measuring import bundled, readable, seconds, tell

from diffgraph.merging.batched import rollouts


def main() -> None:
    """Print the figures."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    merger, files = bundled(device=device)
    deltas = readable(merger, files)
    kinds = {
        "8 experts, 2 of them checkpoints": _some(deltas, checkpoints=2, others=6),
        "4 adapters": _some(deltas, checkpoints=0, others=4),
    }
    prompts, seeds = ["a cat"] * count, list(range(count))
    figures = {"plans": count, "plain_batch": _each(merger.model.sample, prompts, seeds)}
    for name, chosen in kinds.items():
        draws = torch.rand(count, len(chosen), generator=torch.Generator().manual_seed(1))
        plans = [dict(zip(chosen, row, strict=True)) for row in draws.tolist()]

        def together(plans=plans) -> None:
            with rollouts(merger, plans, deltas) as model:
                model.sample(prompts, seeds).cpu()

        def one_at_a_time(plans=plans) -> None:
            for plan, prompt, seed in list(zip(plans, prompts, seeds, strict=True))[:4]:
                merger.apply(plan, deltas)
                merger.model.sample([prompt], [seed]).cpu()
            merger.reset()

        figures[name] = {
            "together": round(seconds(together, 2) / count, 4),
            "one at a time": round(seconds(one_at_a_time, 2) / 4, 4),
        }
    tell("rollouts, seconds an image", figures)


def _some(deltas, checkpoints: int, others: int) -> list[str]:
    whole = [ref for ref, delta in deltas.items() if delta.format == "checkpoint"]
    return whole[:checkpoints] + [ref for ref in deltas if ref not in whole][:others]


def _each(sample, prompts, seeds) -> float:
    return round(seconds(lambda: sample(prompts, seeds).cpu(), 2) / len(prompts), 4)


if __name__ == "__main__":
    main()
