"""What the benchmarks share: the bundled experts, a stopwatch, and one way of printing."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from diffgraph.errors import ExpertError
from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import read_delta
from diffgraph.experts.updates import Update
from diffgraph.families import get_family
from diffgraph.merging.apply import Merger


def clock() -> float:
    """Return the seconds that figures are differences of.

    With one thread on a CPU it is this process's own time: what others take of a busy machine does
    not count, for us or for a peer.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def seconds(work: Callable[[], Any], times: int = 5) -> float:
    """Return the median duration of some runs, after one that warms up."""
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(statistics.median(taken), 4)


def each(device: torch.device, work: Callable[[int], object], times: int = 20) -> float:
    """Return the median milliseconds of a call, the host's own time included."""
    for number in range(3):
        work(number)
    taken = []
    for number in range(times):
        wait(device)
        start = time.perf_counter()
        work(number)
        wait(device)
        taken.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(taken), 3)


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def copy_speed(device: torch.device, small: bool) -> float:
    """Return the bytes a second, read and written, of a large copy on the device."""
    source = torch.randn(1 << (22 if small else 29), device=device)  # 2 GiB
    target = torch.empty_like(source)
    taken = each(device, lambda _: target.copy_(source)) / 1e3
    return 2 * source.nbytes / taken


def compilations() -> int:
    """Return how many graphs have been compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def bundled(family: str = "emoji64", device: str = "cpu") -> tuple[Merger, dict[str, Path]]:
    """Return the family's base, and the weights files of its hub that can be merged."""
    chosen = get_family(family)
    if chosen.hub is None:
        raise SystemExit(f"{family} ships no hub")
    merger = Merger(chosen.load(device))
    return merger, {path.stem: path for path in sorted(chosen.hub.rglob("*.safetensors"))}


def readable(merger: Merger, files: dict[str, Path]) -> dict[str, Delta]:
    """Return the deltas of the files that are what they should be."""
    deltas, base = {}, {name: value.cpu() for name, value in merger.base.items()}
    for name, path in files.items():
        try:
            deltas[name] = read_delta(path, base).to(merger.model.device)
        except ExpertError:
            continue  # the hub holds broken files on purpose
    return deltas


def say(text: str) -> None:
    """Tell on standard error how far a long measurement is; the figures go to standard output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def tell(name: str, figures: dict[str, Any]) -> None:
    """Print the figures as JSON, with the machine they were taken on."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    json.dump({"benchmark": name, **figures, "machine": machine}, sys.stdout, indent=1)
    sys.stdout.write("\n")


def terms_of(
    coefficients: Mapping[str, float], deltas: Mapping[str, Delta]
) -> dict[str, list[tuple[float, Update]]]:
    """Return what is added to each parameter: (coefficient, update) pairs, ordered by reference."""
    terms: dict[str, list[tuple[float, Update]]] = {}
    for ref in sorted(coefficients):
        for name, update in deltas[ref].updates.items():
            terms.setdefault(name, []).append((coefficients[ref], update))
    return terms
