"""How fast, and in how much memory, is a file of SD1.5's size read?

A checkpoint of 2 GB in fp16 and LoRAs of rank 32, beside what safetensors' own loader takes to put
the same numbers into memory. Every figure comes from a process of its own; files are warm, seconds
are one core's own, whoever else is at work. `streamed` adds half of the delta to every parameter.

    OMP_WAIT_POLICY=passive python -m tests.benchmarks.reading [--keep FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.benchmarks.measuring import tell

SD15_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
RANK = 32
TARGETS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "proj.weight")


def shapes() -> dict[str, torch.Size]:
    """Return our names of SD1.5's parameters, with their shapes."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15_UNET)
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
            )
        )
    found = {f"unet.{name}": value.shape for name, value in unet.named_parameters()}
    return found | {f"text_encoder.{name}": value.shape for name, value in text.named_parameters()}


def write(folder: Path) -> None:
    """Write a base, a checkpoint near it and a LoRA."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: torch.Size) -> Tensor:
        return torch.randn(size, generator=generator).mul_(0.02).half()

    known = shapes()
    base = {name: draw(size) for name, size in known.items()}
    save_file(base, folder / "base.safetensors")
    near = {name: value.float().mul_(1.01).half() for name, value in base.items()}
    save_file(near, folder / "checkpoint.safetensors")
    lora = {}
    for name, size in known.items():
        if name.startswith("unet.") and name.endswith(TARGETS) and len(size) == 2:
            stem = "lora_unet_" + name.removeprefix("unet.").removesuffix(".weight").replace(
                ".", "_"
            )
            lora[f"{stem}.lora_down.weight"] = draw(torch.Size((RANK, size[1])))
            lora[f"{stem}.lora_up.weight"] = draw(torch.Size((size[0], RANK)))
            lora[f"{stem}.alpha"] = torch.tensor(float(RANK))
    save_file(lora, folder / "lora.safetensors")


def base_of(folder: Path) -> dict[str, Tensor]:
    """Return the base, mapped into memory."""
    from diffgraph.experts.weights_file import open_weights

    file = open_weights(folder / "base.safetensors")
    return {key: file.tensor(key) for key in file.entries}


def opened(folder: Path, name: str) -> Callable[[], object]:
    from diffgraph.experts.reading import open_delta

    base = base_of(folder)
    return lambda: open_delta(folder / name, base)


def inspected(folder: Path, name: str) -> Callable[[], object]:
    from diffgraph.experts.reading import read_delta

    base = base_of(folder)
    return lambda: read_delta(folder / name, base)


def streamed(folder: Path, name: str) -> Callable[[], object]:
    """Add the whole delta to the base, one parameter at a time."""
    from diffgraph.experts.reading import open_delta

    base = base_of(folder)

    def run() -> None:
        delta = open_delta(folder / name, base)
        for parameter, update in delta.updates.items():
            total = base[parameter].float()
            update.add_to(total, 0.5)
            delta.release(parameter)

    return run


def loaded(folder: Path, name: str) -> Callable[[], object]:
    return lambda: [value.clone() for value in load_file(folder / name).values()]


WAYS = {"open_delta": opened, "read_delta": inspected, "streamed": streamed, "safetensors": loaded}


def own_memory() -> int:
    """Return the bytes that are this process's alone: mapped files are the system's to drop."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def measure(folder: Path, name: str, way: str) -> dict[str, float]:
    """Return a core's own seconds and the memory held after the second of two runs."""
    torch.set_num_threads(1)
    run = WAYS[way](folder, name)
    run()  # names of the model's parameters are put together once
    held, start = own_memory(), time.process_time()
    kept = run()
    figures = {
        "seconds": round(time.process_time() - start, 3),
        "held_mb": round((own_memory() - held) / 1e6, 1),
    }
    del kept
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder whose files are used again")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        json.dump(measure(chosen.keep, *chosen.one), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as fresh:
        folder = chosen.keep or Path(fresh)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "lora.safetensors").is_file():
            write(folder)
        figures: dict[str, Any] = {}
        for name in ("checkpoint.safetensors", "lora.safetensors"):
            size = (folder / name).stat().st_size
            figures[name] = {"mb": round(size / 1e6)}
            for way in WAYS:
                command = [sys.executable, "-m", "tests.benchmarks.reading", "--keep", str(folder)]
                command += ["--one", name, way]
                told = subprocess.run(command, capture_output=True, check=True, text=True)
                figures[name][way] = json.loads(told.stdout)
        tell("reading, SD1.5 size, one core", figures)


if __name__ == "__main__":
    main()
