"""FLUX.1's transformer in 8 bits and three LoRAs into one file in bfloat16, against a copy.

`python tests/benchmarks/flux_to_file.py [--blocks 1 1] [--rounds N] [--folder DIR]`: at the true
size the folder needs 37 GB, which are deleted at the end.

The base is a single file in its makers' layout, as people share it, of random numbers; two LoRAs
are in kohya's layout, one in diffusers', all of rank 32. Every way runs in a process of its own,
with none of its inputs in memory and nothing left to be written. The plain way reads the same files
and writes one of the output's size, one after the other, flushed to the disk as ours is.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import flux
import torch
from measuring import say, tell
from merge_to_file import CHUNK, memory
from safetensors import safe_open

from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import open_delta
from diffgraph.families import flux_layout
from diffgraph.merging.base_files import BaseFiles, open_file
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.to_file import FileMerge
from diffgraph.merging.weights_writer import new_weights

COEFFICIENTS = {"l0": 0.8, "l1": 0.5, "l2": -0.3}
DRAWN = 1 << 25  # numbers that are drawn; the base repeats them
RANK, SAMPLED, ROWS = 32, 24, 16
WAYS = ("plain", "ours")


def make(folder: Path, blocks: tuple[int, int]) -> None:
    """Write the base, one tensor after the other, and the LoRAs."""
    model = flux.Described(flux.describe(False, blocks))
    for number, name in enumerate(COEFFICIENTS):
        write = flux.write_kohya if number < 2 else flux.write_peft
        write(model, RANK, number, folder / f"{name}.safetensors")
    ours = {name: tuple(value.shape) for name, value in model.parameters().items()}
    shapes = {}
    for key, places in flux_layout.parameters(ours).items():
        rows = sum(ours[place.name][0] for place in places)
        shapes[key] = (rows, *ours[places[0].name][1:])
    drawn = torch.empty(DRAWN).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    numbers, at = drawn.to(torch.float8_e4m3fn), 0
    with new_weights(folder / "base.safetensors", shapes, numbers.dtype, {}) as writer:
        for key, shape in shapes.items():
            done, count = 0, torch.Size(shape).numel()
            while done < count:
                part = numbers[at : at + count - done]
                writer.write(key, part, done)
                done, at = done + len(part), (at + len(part)) % DRAWN


def opened(folder: Path) -> tuple[BaseFiles, dict[str, Delta]]:
    """Map all inputs."""
    base = open_file(folder / "base.safetensors", folder)
    parameters = base.parameters
    return base, {
        f"f:{name}@1": open_delta(folder / f"{name}.safetensors", parameters)
        for name in COEFFICIENTS
    }


def ours(folder: Path, out: Path) -> None:
    """Merge by our own file writer."""
    base, deltas = opened(folder)
    experts = (
        PlannedExpert(ref=f"f:{name}@1", kind="peft", coefficient=value)
        for name, value in COEFFICIENTS.items()
    )
    merge = FileMerge(MergePlan(family="flux", experts=tuple(experts)), deltas, base)
    merge.write(out, single_file(base), torch.bfloat16, {"format": "pt"})


def plain(folder: Path, out: Path) -> None:
    """Read the inputs and write as many bytes as the output has, doing nothing else."""
    buffer = memoryview(bytearray(CHUNK))
    for path in inputs(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = 2 * (folder / "base.safetensors").stat().st_size  # of 16 bits
    with out.open("wb", buffering=0) as file:
        while left:
            left -= file.write(buffer[: min(left, CHUNK)])
        os.fsync(file.fileno())


def inputs(folder: Path) -> list[Path]:
    """Return the files that are read."""
    return [folder / f"{name}.safetensors" for name in ("base", *COEFFICIENTS)]


def once(way: str, folder: Path) -> dict[str, float]:
    """Return how long one way takes in this process, and how much memory beyond the start's."""
    out = folder / f"out-{way}.safetensors"
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    start, started = time.perf_counter(), time.process_time()
    {"plain": plain, "ours": ours}[way](folder, out)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(time.process_time() - started, 2),
        "megabytes": round((memory("VmHWM") - before) / 1e6, 1),
    }


def in_a_process(way: str, folder: Path) -> dict[str, float]:
    """Run one way with cold inputs, and nothing left to write to the disk."""
    os.sync()
    for path in inputs(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    told = subprocess.run(
        [sys.executable, __file__, "--once", way, "--folder", str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    ).stdout
    found: dict[str, float] = json.loads(told.strip().splitlines()[-1])
    say(f"{way}: {found}, load {os.getloadavg()[0]:.1f}")
    return found


def not_nearest(folder: Path) -> float:
    """Return the share of weights that are not the nearest to the float64 sum, of some rows."""
    base, deltas = opened(folder)
    draw, wrong, count = random.Random(0), 0, 0
    slots = {key: slot for key, slot in single_file(base).items() if len(slot.shape) == 2}
    with safe_open(folder / "out-ours.safetensors", "pt") as written:
        for key in draw.sample(sorted(slots), min(SAMPLED, len(slots))):
            place = draw.choice(slots[key].merged)
            value = base.merged[place.name].value
            rows = draw.sample(range(len(value)), min(ROWS, len(value)))
            expected = torch.stack([value[row].float() for row in rows]).double()
            for ref, delta in deltas.items():
                update = delta.updates.get(place.name)
                if update is not None:
                    scale = COEFFICIENTS[ref[2:4]] * update.scale
                    expected += scale * (update.up[rows].double() @ update.down.double())
            theirs = [row for first, last in place.rows for row in range(first, last)]
            where = [theirs[row] for row in rows] if theirs else rows
            found = torch.stack([written.get_slice(key)[row] for row in where])
            wrong += int((found != expected.bfloat16()).sum())
            count += found.numel()
    return float(f"{wrong / count:.2g}")


def figures(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure all ways in turn; of the outputs only one is there at a time."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    wrong = 0.0
    for _ in range(rounds):
        for way in WAYS:
            runs[way].append(in_a_process(way, folder))
            out = folder / f"out-{way}.safetensors"
            size = out.stat().st_size
            if way == "ours":
                wrong = not_nearest(folder)
            out.unlink()
    base, _ = opened(folder)
    largest = max(slot.shape.numel() for slot in single_file(base).values())
    seconds = {way: statistics.median(run["seconds"] for run in runs[way]) for way in WAYS}
    read = sum(path.stat().st_size for path in inputs(folder))
    return {
        "parameters": sum(value.numel() for value in base.parameters.values()),
        "gigabytes read": round(read / 1e9, 2),
        "gigabytes written": round(size / 1e9, 2),
        "runs": rounds,
        "seconds": seconds,
        "gigabytes a second": {w: round((read + size) / 1e9 / s, 3) for w, s in seconds.items()},
        "core_seconds": {
            way: statistics.median(run["core_seconds"] for run in runs[way]) for way in WAYS
        },
        "peak_megabytes": {way: max(run["megabytes"] for run in runs[way]) for way in WAYS},
        "largest tensor in the output_megabytes": round(2 * largest / 1e6, 1),
        "times plain copying": round(seconds["ours"] / seconds["plain"], 2),
        "share of weights that are not the nearest": wrong,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for the files; by default a temporary one")
    parser.add_argument("--blocks", nargs=2, type=int, default=flux.BLOCKS)
    parser.add_argument("--rounds", type=int, default=1, help="3 or more: the first copy is slow")
    parser.add_argument("--once", choices=WAYS)
    given = parser.parse_args()
    if given.once:
        sys.stdout.write(json.dumps(once(given.once, given.folder)) + "\n")
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        make(Path(folder), tuple(given.blocks))
        tell("FLUX, merge to file", figures(Path(folder), given.rounds))


if __name__ == "__main__":
    main()
