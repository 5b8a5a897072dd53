"""Five LoRAs into a resident FLUX.1 transformer of its true size: ours against diffusers.

`python tests/benchmarks/flux_in_place.py [--device cuda] [--small] [--only STAGE …]`

`--blocks 1 1 --only exact diffusers` tries the files' layouts out on a CPU: diffusers reads
kohya's at FLUX's true width only, so `--small` leaves it out.

Random weights in bfloat16; three files in kohya's layout, two in diffusers'. On a GPU it needs
55 GB of its memory and 2 GB for the files. The bound is what the merge must at least read and
write, at the speed of a plain copy on this device in this run.
"""

import argparse
import gc
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import flux
import sd15
import torch
from measuring import clock, compilations, copy_speed, each, say, tell, terms_of, wait
from torch import Tensor

from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import open_delta
from diffgraph.families.flux_model import Flux
from diffgraph.merging.apply import Merger
from diffgraph.merging.packing import pack

RANK, KOHYA, PEFT, PLANS = 32, 3, 2, 20
SAMPLED = 7  # one weight of so many is compared with float64

STAGES = ("merges", "exact", "no_trace", "compiled", "diffusers", "tiles")

Figures = dict[str, object]


def measure(
    device: str,
    small: bool,
    stages: Sequence[str] = STAGES,
    blocks: tuple[int, int] | None = None,
    partial: Path | None = None,
) -> Figures:
    """Return the figures; each stage's are written to `partial` as soon as they are there."""
    sd15.be_quiet()
    start = time.perf_counter()
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(flux.build(small, device, torch.bfloat16, blocks), Path(folder), small)
        for name in ("write_files", "resident", "ours", *stages):
            figures |= attempted(getattr(run, name))
            figures["so far_s"] = round(time.perf_counter() - start, 1)
            say(f"{name}: {figures['so far_s']} s")
            if partial is not None:
                partial.write_text(json.dumps(figures, indent=1))
    del figures["so far_s"]
    return figures | run.compared()


def attempted(stage: Callable[[], Figures]) -> Figures:
    """Return a stage's figures, or why there are none: what came before is worth having."""
    try:
        return stage()
    except Exception as error:
        say(repr(error)[:2000])
        return {f"{stage.__name__}, error": repr(error)[:500]}


class Run:
    """One model, one set of files, and what has been measured on them."""

    def __init__(self, model: Flux, folder: Path, small: bool) -> None:
        self.model, self.folder, self.small = model, folder, small
        self.device = model.device
        self.files: list[Path] = []
        self.deltas: dict[str, Delta] = {}
        self.plans = [_plan(number) for number in range(PLANS)]
        self.seconds: dict[str, float] = {}

    def write_files(self) -> Figures:
        """Write the files that both read."""
        writers = [flux.write_kohya] * KOHYA + [flux.write_peft] * PEFT
        for number, write in enumerate(writers):
            self.files.append(self.folder / f"l{number}.safetensors")
            write(self.model, RANK, number, self.files[-1])
        sizes = [path.stat().st_size for path in self.files]
        count = sum(value.numel() for value in self.model.transformer.parameters())
        return {
            "parameters": count,
            "dtype": "bfloat16",
            "plan": f"{len(sizes)} LoRAs of rank {RANK}, {KOHYA} of kohya's layout",
            "file megabytes": [round(size / 1e6) for size in sizes],
        }

    def resident(self) -> Figures:
        """Measure what a merger adds to the model's memory."""
        live = sum(value.nbytes for value in self.model.parameters().values())
        before = self._allocated()
        self.merger = Merger(self.model)
        return {
            "weights_gb": _gb(live),
            **({"merger beside them_gb": _gb(self._allocated() - before)} if before else {}),
        }

    def ours(self) -> Figures:
        """Measure files -> weights, as a renderer does it but for the check of all numbers."""
        merger, pin = self.merger, self.device.type == "cuda"
        # of a LoRA's base only the shapes are looked at: these take no memory
        base = {
            name: torch.empty((), dtype=value.dtype).expand(value.shape)
            for name, value in merger.base.items()
        }
        warm = pack(open_delta(self.files[0], base), pin).to(self.device).delta
        merger.apply({"warm": 1.0}, {"warm": warm})  # kernels are built once a machine
        merger.reset()
        del warm
        self._forget_peak()
        start = self._now()
        packed = {path.stem: pack(open_delta(path, base), pin) for path in self.files}
        there = {ref: item.to(self.device) for ref, item in packed.items()}
        loaded = self._now()
        self.deltas = {ref: item.delta for ref, item in there.items()}
        merger.apply(self.plans[0], self.deltas)
        merged = self._now()
        checked = self._check(base)
        self.bytes = sum(item.bytes for item in there.values())
        self.seconds["ours"] = merged - start
        return {
            "ours, load_s": round(loaded - start, 4),
            "ours, first merge_s": round(merged - loaded, 4),
            "ours, total_s": round(merged - start, 4),
            "ours, check that numbers are finite_s": round(checked, 4),  # not in the total
            "LoRAs on the device_gb": _gb(self.bytes),
            **self._peak("ours, peak_gb"),
        }

    def merges(self) -> Figures:
        """Measure merges of LoRAs in memory against the memory's bandwidth."""
        merger, deltas, plans = self.merger, self.deltas, self.plans
        touched = {name for delta in deltas.values() for name in delta.updates}
        least = 2 * sum(merger.base[name].nbytes for name in touched) + self.bytes
        speed = copy_speed(self.device, self.small)
        bound = 1e3 * least / speed
        self._forget_peak()
        merge = each(self.device, lambda k: merger.apply(plans[k % PLANS], deltas))
        one = each(
            self.device, lambda k: merger.apply({**plans[0], "l0": 0.1 + 0.01 * (k % 7)}, deltas)
        )
        back = each(self.device, lambda k: merger.apply(plans[0] if k % 2 else {}, deltas), 10)
        self.seconds["merge"] = merge / 1e3
        return {
            "weights touched": len(touched),
            "gigabytes to move": _gb(least),
            "copy gigabytes a second": round(speed / 1e9, 1),
            "bound_ms": round(bound, 3),
            "merge_ms": merge,
            "times the bound": round(merge / bound, 2),
            "one LoRA's coefficient changed_ms": one,
            "a merge or the base, in turns_ms": back,
            "nothing changed_ms": each(self.device, lambda _: merger.apply(plans[0], deltas)),
            **self._peak("merges, peak_gb"),
        }

    def exact(self) -> Figures:
        """Compare a merge with float64."""
        self.merger.apply(self.plans[3], self.deltas)
        return {"ours, exactness": self._exactness(self.plans[3], self.model.parameters())}

    def no_trace(self) -> Figures:
        """Look whether the base comes back."""
        for plan in self.plans:
            self.merger.apply(plan, self.deltas)
        self.merger.reset()
        return {f"base again after {PLANS} merges, bit for bit": self._is_base()}

    @torch.no_grad()
    def compiled(self) -> Figures:
        """Count what 20 plans make compile again, every block compiled by itself."""
        merger, model, deltas = self.merger, self.model, self.deltas
        merger.reset()
        start = time.perf_counter()
        eager = flux.forward(model, self.small)
        backend = "eager" if self.small else "inductor"
        for name, module in model.transformer.named_modules():
            if name.startswith(flux.BOTH_KINDS) and name.count(".") == 1:
                module.compile(backend=backend)
        before = compilations()
        base = flux.forward(model, self.small)
        flux.forward(model, self.small)
        wait(self.device)
        took, graphs = time.perf_counter() - start, compilations() - before
        results, differences = [], [_difference(base, eager)]
        for number, plan in enumerate(self.plans):
            merger.apply(plan, deltas)
            results.append(flux.forward(model, self.small))
            if number < 2:
                with torch.compiler.set_stance("force_eager"):
                    eager = flux.forward(model, self.small)
                differences.append(_difference(results[-1], eager))
        again = compilations() - before - graphs
        step = each(self.device, lambda _: flux.forward(model, self.small), 5)
        return {
            "compiled": {
                "compile_s": round(took, 1),
                "graphs": graphs,
                f"recompilations over {PLANS} plans": again,
                "different results": len({float(result.double().sum()) for result in results}),
                "all finite": all(bool(result.isfinite().all()) for result in results),
                "least difference from the base": min(_difference(it, base) for it in results),
                "largest difference from the model that is not compiled": max(differences),
                "step_ms": step,
            }
        }

    def diffusers(self) -> Figures:
        """Measure files -> weights as diffusers' documentation says."""
        if self.small:
            return {}
        self.merger.reset()
        names = [path.stem for path in self.files]
        pipe = _pipeline(self.model)
        self._wrapped(pipe, [0])
        pipe.fuse_lora(adapter_names=names[:1])
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        self._restore()
        self._forget_peak()
        start = self._now()
        self._wrapped(pipe, range(len(names)))
        loaded = self._now()
        pipe.set_adapters(names, [self.plans[0][name] for name in names])
        chosen = self._now()
        pipe.fuse_lora(adapter_names=names)
        fused = self._now()
        self.seconds |= {"diffusers": fused - start, "fuse": fused - loaded}
        peak = self._peak("diffusers, peak_gb")
        exactness = self._exactness(self.plans[0], self._plain())
        begin = self._now()
        pipe.unfuse_lora()
        unfused = self._now() - begin
        unchanged = self._is_base()
        pipe.unload_lora_weights()
        self._restore()
        return {
            "diffusers, load_s": round(loaded - start, 4),
            "diffusers, set_s": round(chosen - loaded, 4),
            "diffusers, fuse_s": round(fused - chosen, 4),
            "diffusers, total_s": round(fused - start, 4),
            "diffusers, unfuse_s": round(unfused, 4),
            "diffusers, base again, bit for bit": unchanged,
            "diffusers, exactness": exactness,
            **peak,
        }

    def tiles(self) -> Figures:
        """Return how other tiles do, where kernels write them."""
        if self.device.type != "cuda":
            return {}
        from diffgraph.merging import kernels

        names = ("ROWS", "COLUMNS", "TILE_WARPS")
        mine, found = tuple(getattr(kernels, name) for name in names), {}
        try:
            for shape in ((64, 64, 4), (64, 128, 4), (128, 64, 8), (128, 128, 8), (64, 256, 8)):
                self._set(kernels, names, shape)
                found["{}x{} by {} warps".format(*shape)] = each(
                    self.device,
                    lambda k: self.merger.apply(self.plans[k % PLANS], self.deltas),
                    7,
                )
        finally:
            self._set(kernels, names, mine)
        return {"other tiles_ms": found}

    def compared(self) -> Figures:
        """Return how many times faster ours is."""
        found: Figures = {}
        for name, theirs, ours in (
            ("times faster, files to weights", "diffusers", "ours"),
            ("times faster, memory to weights", "fuse", "merge"),
        ):
            if {theirs, ours} <= self.seconds.keys():
                found[name] = round(self.seconds[theirs] / self.seconds[ours], 2)
        return found

    def _set(self, kernels, names, shape) -> None:
        for name, value in zip(names, shape, strict=True):
            setattr(kernels, name, value)
        self.merger._fused._tiles.clear()

    def _wrapped(self, pipe, places) -> None:
        for place in places:
            path = self.files[place]
            pipe.load_lora_weights(str(path), adapter_name=path.stem)

    def _check(self, base) -> float:
        start = self._now()
        for path in self.files:
            delta = open_delta(path, base)
            for name in delta.updates:
                delta.check(name)
        return self._now() - start

    @torch.no_grad()
    def _exactness(self, plan, live) -> dict[str, float]:
        exactness = sd15.Exactness()
        for name, terms in list(terms_of(plan, self.deltas).items())[::SAMPLED]:
            base = self.merger.base[name]
            exactness.add(live[name], base, sd15.reference(base, terms))
        return exactness.told()

    def _plain(self) -> dict[str, Tensor]:
        """Return the weights under the names they had before peft wrapped their layers."""
        return {
            name.replace(".base_layer.", "."): value
            for name, value in self.model.parameters().items()
            if ".lora_" not in name
        }

    def _is_base(self) -> bool:
        live = self._plain()
        return all(torch.equal(live[name], value) for name, value in self.merger.base.items())

    def _restore(self) -> None:
        for name, value in self._plain().items():
            value.copy_(self.merger.base[name])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _now(self) -> float:
        wait(self.device)
        return clock()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def _forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self, name: str) -> Figures:
        """Return the most device memory that was in use since it was forgotten."""
        if self.device.type != "cuda":
            return {}
        return {name: _gb(torch.cuda.max_memory_allocated())}


def _plan(seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    return {f"l{number}": round(draw.uniform(-1, 1.5), 3) for number in range(KOHYA + PEFT)}


def _pipeline(model: Flux):
    from diffusers import FluxPipeline

    return FluxPipeline(
        scheduler=model.scheduler,
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=None,
        text_encoder_2=model.text_encoder_2,
        tokenizer_2=None,
        transformer=model.transformer,
    )


def _difference(found: Tensor, wanted: Tensor) -> float:
    size = (found.double() - wanted.double()).norm() / wanted.double().norm()
    return float(f"{float(size):.3g}")


def _gb(size: float) -> float:
    return round(size / 1e9, 3)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--blocks", nargs=2, type=int, help="of two streams, of one; 19 38")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=STAGES)
    parser.add_argument("--partial", type=Path, help="a file for the figures so far")
    given = parser.parse_args()
    blocks = tuple(given.blocks) if given.blocks else None
    figures = measure(given.device, given.small, given.only, blocks, given.partial)
    tell(f"FLUX in place, {given.device}", figures)


if __name__ == "__main__":
    main()
