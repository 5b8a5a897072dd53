"""A plan of three checkpoints and five LoRAs into a compiled UNet of SD1.5's size.

`python tests/benchmarks/in_place.py [--device cuda] [--dtype float16] [--small]`

The experts are in the device's memory. The bound is what the merge must at least read and write,
at the speed of a plain copy on this device in this run.
"""

import argparse
import random
import time
from collections.abc import Callable

import sd15
import torch
from measuring import compilations, copy_speed, each, say, tell, terms_of, wait
from torch import Tensor

from diffgraph.experts.updates import CheckpointUpdate, LowRankUpdate
from diffgraph.merging import apply as merging
from diffgraph.merging.apply import Merger

CHECKPOINTS, LORAS, RANK = 3, 5, 32


def measure(device: str, dtype: torch.dtype, small: bool) -> dict:
    """Return the figures."""
    sd15.be_quiet()
    model = sd15.build(small, device, dtype, text=False)
    merger = Merger(model)
    deltas = {
        f"c{number}": sd15.random_checkpoint(merger.base, number, device)
        for number in range(CHECKPOINTS)
    } | {f"l{number}": sd15.random_lora(model, RANK, 9 + number, device) for number in range(LORAS)}
    plans = [_plan(number) for number in range(20)]
    least = _bytes(merger, deltas)
    speed = copy_speed(model.device, small)
    figures: dict = {
        "parameters": sum(value.numel() for value in merger.base.values()),
        "dtype": str(dtype).removeprefix("torch."),
        "plan": f"{CHECKPOINTS} checkpoints and {LORAS} LoRAs of rank {RANK}",
        "gigabytes to move": round(least / 1e9, 3),
        "copy gigabytes a second": round(speed / 1e9, 1),
        "bound_ms": round(1e3 * least / speed, 3),
    }
    figures["merge_ms"] = each(model.device, lambda k: merger.apply(plans[k % 20], deltas))
    figures["times the bound"] = round(figures["merge_ms"] / figures["bound_ms"], 2)
    figures |= _incremental(merger, deltas, plans[0])
    figures |= _other_ways(merger, deltas, plans)
    figures["exactness"] = _exactness(merger, deltas, plans[3])
    figures["compiled"] = _compiled(merger, deltas, plans, small)
    figures["base again after 100 merges, bit for bit"] = _no_trace(merger, deltas)
    return figures


def _plan(seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    shares = [draw.random() for _ in range(CHECKPOINTS)]
    plan = {f"c{number}": share / sum(shares) for number, share in enumerate(shares)}
    return plan | {f"l{number}": draw.uniform(-1, 1.5) for number in range(LORAS)}


def _bytes(merger: Merger, deltas: dict) -> int:
    """Return what any way of merging must read and write: base, experts, result, each once."""
    base = sum(value.nbytes for value in merger.base.values())
    return 2 * base + sum(delta.bytes for delta in deltas.values())


def _incremental(merger: Merger, deltas: dict, plan: dict) -> dict:
    def change(ref: str) -> Callable[[int], object]:
        return lambda k: merger.apply({**plan, ref: 0.1 + 0.01 * (k % 7)}, deltas)

    device = merger.model.device
    return {
        "one LoRA's coefficient changed_ms": each(device, change("l0")),
        "one checkpoint's coefficient changed_ms": each(device, change("c0")),
        "nothing changed_ms": each(device, lambda _: merger.apply(plan, deltas)),
    }


def _other_ways(merger: Merger, deltas: dict, plans: list) -> dict:
    """Return how long the same plan takes as a loop over parameters, and by foreach."""
    live = merger.model.parameters()

    def loop(number: int) -> None:
        for name, terms in terms_of(plans[number % 20], deltas).items():
            merging.write_sum(live[name], merger.base[name], terms)

    checkpoints = {ref: delta for ref, delta in deltas.items() if ref.startswith("c")}
    bases = list(merger.base.values())
    values = [[delta.updates[name].value for name in merger.base] for delta in checkpoints.values()]

    def foreach(number: int) -> None:
        shares = [plans[number % 20][ref] for ref in checkpoints]
        total = torch._foreach_mul(bases, 1 - sum(shares))  # in the weights' type: not exact
        for value, share in zip(values, shares, strict=True):
            torch._foreach_add_(total, value, alpha=share)
        torch._foreach_copy_(list(live.values()), total)

    device, figures = merger.model.device, {}
    with torch.no_grad():
        figures["as a loop over parameters_ms"] = each(device, loop, 3)
        if merger.model.device.type == "cuda":
            figures["the checkpoints alone, by foreach in half precision_ms"] = each(
                device, foreach, 5
            )
    only = [{ref: plan[ref] for ref in checkpoints} for plan in plans]
    figures["the checkpoints alone_ms"] = each(
        device, lambda k: merger.apply(only[k % 20], deltas), 5
    )
    lora = [{ref: plan[ref] for ref in plan if ref not in checkpoints} for plan in plans]
    merger.reset()
    figures["the LoRAs alone_ms"] = each(device, lambda k: merger.apply(lora[k % 20], deltas), 5)
    figures |= _tile_shapes(merger, deltas, plans)
    return figures


def _tile_shapes(merger: Merger, deltas: dict, plans: list) -> dict:
    """Return how other tiles do; the kernels' own are the fastest of these."""
    if merger._fused is None:
        return {}
    from diffgraph.merging import kernels

    names = ("ROWS", "COLUMNS", "TILE_WARPS", "BLOCK", "WARPS")
    mine = tuple(getattr(kernels, name) for name in names)
    found = {}
    shapes = [
        (64, 64, 8, 4096, 8), (64, 128, 8, 4096, 4), (32, 128, 4, 2048, 4), (128, 64, 8, 8192, 8),
        (64, 64, 4, 2048, 4), (32, 64, 4, 2048, 8),
    ]  # fmt: skip
    try:
        for shape in shapes:
            for name, value in zip(names, shape, strict=True):
                setattr(kernels, name, value)
            merger._fused._tiles.clear()
            key = "tile {}x{} by {} warps, block {} by {} warps_ms".format(*shape)
            found[key] = each(
                merger.model.device, lambda k: merger.apply(plans[k % 20], deltas), 12
            )
    finally:
        for name, value in zip(names, mine, strict=True):
            setattr(kernels, name, value)
        merger._fused._tiles.clear()
    return found


def _exactness(merger: Merger, deltas: dict, plan: dict) -> dict:
    merger.apply(plan, deltas)
    exactness, live = sd15.Exactness(), merger.model.parameters()
    for name, terms in list(terms_of(plan, deltas).items())[::5]:
        assert all(isinstance(item, CheckpointUpdate | LowRankUpdate) for _, item in terms)
        exactness.add(live[name], merger.base[name], sd15.reference(merger.base[name], terms))
    return exactness.told()


@torch.no_grad()
def _compiled(merger: Merger, deltas: dict, plans: list, small: bool) -> dict:
    """Return how often 20 plans make a compiled UNet compile again, and whether it sees them."""
    unet = merger.model.components["unet"]
    device, dtype = merger.model.device, next(unet.parameters()).dtype
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    inputs = (
        torch.randn(2, 4, size, size, device=device, dtype=dtype),
        torch.tensor(500, device=device),
        torch.randn(2, 77, width, device=device, dtype=dtype),
    )
    merger.reset()
    compiled = torch.compile(unet, backend="eager" if small else "inductor")
    start = time.perf_counter()
    compiled(*inputs, return_dict=False)[0]
    wait(device)
    took = time.perf_counter() - start
    say(f"compiled in {took:.0f} s")
    before = compilations()
    differences, results = [], []
    for plan in plans:
        merger.apply(plan, deltas)
        found: Tensor = compiled(*inputs, return_dict=False)[0]
        results.append(found.float())
        if len(results) <= 3:
            eager = unet(*inputs, return_dict=False)[0].float()
            differences.append(float((found.float() - eager).norm() / eager.norm()))
    return {
        "compile_s": round(took, 1),
        "recompilations over 20 plans": compilations() - before,
        "different results": len({float(result.sum()) for result in results}),
        "largest difference from the model that is not compiled": round(max(differences), 5),
        "step_ms": each(device, lambda _: compiled(*inputs, return_dict=False)[0], 10),
    }


def _no_trace(merger: Merger, deltas: dict) -> bool:
    draw = random.Random(7)
    for _ in range(100):
        refs = [ref for ref in deltas if draw.random() < 0.5]
        merger.apply({ref: draw.gauss(0, 1) for ref in refs}, deltas)
    merger.reset()
    live = merger.model.parameters()
    return all(torch.equal(live[name], value) for name, value in merger.base.items())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    figures = measure(given.device, getattr(torch, given.dtype), given.small)
    tell(f"a plan in place, {given.device}", figures)


if __name__ == "__main__":
    main()
