"""Three half-precision checkpoints of SD1.5's size into one file, against sd-mecha and a copy.

`python tests/benchmarks/merge_to_file.py [--folder DIR] [--rounds N] [--peer-rounds N]`, after
`pip install -e '.[bench]'`; the folder needs 11 GB.

Every way runs in a process of its own, on the same files, with as many threads as there are cores.
All inputs are read once before each run, so that all find them in the page cache, and what was
written before is on the disk. The plain way reads the three files and writes one of their size, one
after the other, flushed to the disk as ours is; sd-mecha's is not flushed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import tell
from torch import nn

from diffgraph.experts.reading import open_delta
from diffgraph.merging.base_files import open_folder
from diffgraph.merging.layouts import single_file
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.to_file import FileMerge
from diffgraph.merging.weights_writer import new_weights

COEFFICIENTS = (0.5, 0.3, 0.2)
CHUNK = 8 << 20
EXPERTS = ("a", "b", "c")


def components() -> dict[str, nn.Module]:
    """Return SD1.5's own modules without their numbers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(cross_attention_dim=768),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_attention_heads=12,
                    num_hidden_layers=12,
                )
            ),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        }


def make(folder: Path) -> None:
    """Write a base in the diffusers layout, and three checkpoints in single files."""
    for name, module in components().items():
        shapes = {key: value.shape for key, value in module.named_parameters()}
        fill(folder / "base" / name / "model.safetensors", shapes, 0)
    slots = single_file(open_folder(folder / "base"))
    for seed, name in enumerate(EXPERTS, 1):
        fill(folder / f"{name}.safetensors", {key: s.shape for key, s in slots.items()}, seed)


def fill(path: Path, shapes: dict[str, torch.Size], seed: int) -> None:
    """Write a file of random numbers."""
    if path.exists():
        return
    generator = torch.Generator().manual_seed(seed)
    with new_weights(path, shapes, torch.float16, {"format": "pt"}) as writer:
        for key, shape in shapes.items():
            values = torch.empty(shape.numel()).normal_(0, 0.02, generator=generator)
            writer.write(key, values.half())


def ours(folder: Path, out: Path) -> None:
    """Merge by our own file writer."""
    base = open_folder(folder / "base")
    parameters = base.parameters
    deltas = {f"f:{name}@1": open_delta(folder / f"{name}.safetensors", parameters)
              for name in EXPERTS}  # fmt: skip
    plan = MergePlan(
        family="sd15",
        experts=tuple(
            PlannedExpert(ref=ref, kind="checkpoint", coefficient=value)
            for ref, value in zip(deltas, COEFFICIENTS, strict=True)
        ),
    )
    merge = FileMerge(plan, deltas, base)
    merge.write(out, single_file(base), torch.float16, {"format": "pt"})


def plain(folder: Path, out: Path) -> None:
    """Read the inputs and write as many bytes as the output has, doing nothing else."""
    buffer = memoryview(bytearray(CHUNK))
    for name in EXPERTS:
        with (folder / f"{name}.safetensors").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = (folder / "a.safetensors").stat().st_size
    with out.open("wb", buffering=0) as file:
        while left:
            left -= file.write(buffer[: min(left, CHUNK)])
        os.fsync(file.fileno())


def sd_mecha(folder: Path, out: Path) -> None:
    """Merge as sd-mecha's users do: two weighted sums, one of the other."""
    import sd_mecha as peer

    first, second, third = (peer.model(str(folder / f"{name}.safetensors")) for name in EXPERTS)
    a, b, c = COEFFICIENTS
    both = peer.weighted_sum(first, second, alpha=b / (a + b))
    peer.merge(
        peer.weighted_sum(both, third, alpha=c),
        merge_dtype=torch.float32,
        output_dtype=torch.float16,
        threads=os.cpu_count(),
        output=str(out),
    )


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "plain": plain,
    "ours": ours,
    "sd_mecha": sd_mecha,
}


def once(way: str, folder: Path) -> dict[str, float]:
    """Return how long one way takes in this process, and how much memory beyond the start's."""
    if way == "sd_mecha":
        import sd_mecha  # noqa: F401  # importing it is not merging
    out = folder / f"out-{way}.safetensors"
    out.unlink(missing_ok=True)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    start, started = time.perf_counter(), time.process_time()
    WAYS[way](folder, out)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(time.process_time() - started, 2),
        "megabytes": round((memory("VmHWM") - before) / 1e6, 1),
    }


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def in_a_process(way: str, folder: Path) -> dict[str, float]:
    """Run one way with its inputs in the page cache, and nothing left to write to the disk."""
    os.sync()
    for path in sorted(folder.rglob("*.safetensors")):
        if not path.name.startswith("out-"):
            with path.open("rb", buffering=0) as file:
                while file.read(CHUNK):
                    pass
    told = subprocess.run(
        [sys.executable, __file__, "--once", way, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    ).stdout
    found: dict[str, float] = json.loads(told.strip().splitlines()[-1])
    sys.stderr.write(f"{way}: {found}, load {os.getloadavg()[0]:.1f}\n")
    return found


def largest_difference(folder: Path) -> float:
    """Return how far our file is from sd-mecha's, relative, in the worst tensor."""
    from safetensors import safe_open

    worst = 0.0
    with safe_open(folder / "out-ours.safetensors", "pt") as mine:
        with safe_open(folder / "out-sd_mecha.safetensors", "pt") as theirs:
            for key in theirs.keys():
                if not key.startswith("first_stage_model"):  # ours is the base's, never merged
                    expected = theirs.get_tensor(key).float()
                    found = mine.get_tensor(key).float().reshape(expected.shape)
                    worst = max(worst, float((found - expected).norm() / expected.norm()))
    return worst


def main() -> None:
    """Measure all ways in turn and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "merge-to-file"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--once", choices=WAYS)
    given = parser.parse_args()
    if given.once:
        sys.stdout.write(json.dumps(once(given.once, given.folder)) + "\n")
        return
    make(given.folder)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way in WAYS:
            if way != "sd_mecha" or number < given.peer_rounds:
                runs[way].append(in_a_process(way, given.folder))
    tell("merge to file", figures(given.folder, runs))


def figures(folder: Path, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians, and ratios of them."""
    seconds = {
        way: statistics.median(run["seconds"] for run in found)
        for way, found in runs.items()
        if found
    }
    told: dict[str, Any] = {
        "file_megabytes": round((folder / "a.safetensors").stat().st_size / 1e6),
        "seconds": {way: round(value, 2) for way, value in seconds.items()},
        "least_seconds": {
            way: min(run["seconds"] for run in found) for way, found in runs.items() if found
        },
        "core_seconds": {
            way: statistics.median(run["core_seconds"] for run in found)
            for way, found in runs.items()
            if found
        },
        "runs": {way: len(found) for way, found in runs.items()},
        "peak_megabytes": {
            way: max(run["megabytes"] for run in found) for way, found in runs.items() if found
        },
        "times_plain_copying": round(seconds["ours"] / seconds["plain"], 2),
    }
    if "sd_mecha" in seconds:
        told["times_faster_than_sd_mecha"] = round(seconds["sd_mecha"] / seconds["ours"], 1)
        told["largest_relative_difference"] = float(f"{largest_difference(folder):.2g}")
    return told


if __name__ == "__main__":
    main()
