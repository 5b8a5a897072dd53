"""How long does it take to know a folder of LoRA files, and how long when nothing has changed?

    nice python tests/benchmarks/folder_of_files.py [--files 2000]

Writes so many LoRA files: kohya's modules of SD1.5 at rank 128, each with its own training header
and a sidecar of ComfyUI-Lora-Manager; then looks at them twice: first when all of them are new,
then when nothing is. The numbers of a file are a hole in it, so that two
thousand files of 151 MB fit anywhere; no look reads more of a file than three samples. Then all
are registered, as the end of `diffgraph discover` does, and `diffgraph plan` makes the first plan
of them, in a process of its own; the files that it chooses are hashed. Then some
are hashed, as their first use does, by one thread and by several. Prints one JSON document:
seconds of the clock, and on a core for a machine that others use too.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.changes import Discovery
from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.experts.hashing import hash_files
from diffgraph.experts.library import Library
from diffgraph.experts.references import References
from diffgraph.experts.weights_file import header_bytes
from diffgraph.families import get_family
from diffgraph.session.registering import register_library

PROMPT = "a fox in the rain, neon, gold"
WORDS = ("neon", "rain", "castle", "fox", "ink", "fog", "gold", "robot", "paper", "owl", "night")
BLOCKS = (
    *((f"down_blocks_{block}", count, width) for block, count, width in
      ((0, 2, 320), (1, 2, 640), (2, 2, 1280))),
    ("mid_block", 1, 1280),
    *((f"up_blocks_{block}", 3, width) for block, width in ((1, 1280), (2, 640), (3, 320))),
)  # fmt: skip
TEXT, LAYERS = 768, 12
RANK = 128
HASHED = 16


def modules() -> Iterator[tuple[str, int, int]]:
    """Yield the modules that kohya's trainer adapts in SD1.5: name, outputs, inputs."""
    for block, count, width in BLOCKS:
        for number in range(count):
            stem = f"lora_unet_{block}_attentions_{number}"
            yield f"{stem}_proj_in", width, width
            for attention in ("attn1", "attn2"):
                seen = TEXT if attention == "attn2" else width
                for part, inputs in (("to_q", width), ("to_k", seen), ("to_v", seen),
                                     ("to_out_0", width)):  # fmt: skip
                    yield f"{stem}_transformer_blocks_0_{attention}_{part}", width, inputs
            yield f"{stem}_transformer_blocks_0_ff_net_0_proj", 8 * width, width
            yield f"{stem}_transformer_blocks_0_ff_net_2", width, 4 * width
            yield f"{stem}_proj_out", width, width
    for layer in range(LAYERS):
        stem = f"lora_te_text_model_encoder_layers_{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{stem}_self_attn_{part}", TEXT, TEXT
        yield f"{stem}_mlp_fc1", 4 * TEXT, TEXT
        yield f"{stem}_mlp_fc2", TEXT, 4 * TEXT


def write(folder: Path, number: int) -> None:
    """Write one LoRA file with its header and its sidecar."""
    chance = random.Random(number)
    trigger = f"{chance.choice(WORDS)}{number}"
    tags = {word: chance.randint(1, 60) for word in WORDS} | {
        f"{one} {other}": chance.randint(1, 9) for one in WORDS for other in WORDS
    }
    metadata = {
        "ss_output_name": trigger,
        "ss_base_model_version": "sd_v1",
        "ss_tag_frequency": json.dumps({f"10_{trigger}": tags}),
        "ss_dataset_dirs": json.dumps({f"10_{trigger}": {"n_repeats": 10, "img_count": 40}}),
    }
    file = folder / WORDS[number % len(WORDS)] / f"{trigger}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": metadata}
    size = 0
    for name, outputs, inputs in modules():
        shapes = {
            "alpha": [],
            "lora_down.weight": [RANK, inputs],
            "lora_up.weight": [outputs, RANK],
        }
        for part, shape in shapes.items():
            end = size + 2 * math.prod(shape)
            header[f"{name}.{part}"] = {"dtype": "F16", "shape": shape, "data_offsets": [size, end]}
            size = end
    with file.open("wb") as written:
        written.write(header_bytes(header))
        start = written.tell()
        written.write(number.to_bytes(2, "little"))  # the first alpha: no two files are alike
        written.truncate(start + size)
    sidecar = {
        "file_name": trigger, "model_name": f"{trigger} style", "size": file.stat().st_size,
        "base_model": "SD 1.5", "tags": list(WORDS[:3]), "usage_tips": '{"strength": 0.8}',
        "modelDescription": f"<p>A {chance.choice(WORDS)} look, with {chance.choice(WORDS)}.</p>",
        "civitai": {"trainedWords": [trigger], "images": [{"meta": {"prompt": f"a {trigger}"}}],
                    "model": {"name": trigger, "type": "LORA"}},
    }  # fmt: skip
    file.with_suffix(".metadata.json").write_text(json.dumps(sidecar))


def timed(work: Callable[[], Discovery]) -> dict[str, Any]:
    """Return how long a look took, and what it found."""
    clock, core = time.perf_counter(), time.process_time()
    found = work()
    return {
        "seconds": round(time.perf_counter() - clock, 2),
        "cpu seconds": round(time.process_time() - core, 2),
        "unchanged": len(found.unchanged),
        "new": len(found.new) + len(found.updated),
        "refused": len(found.refused),
    }


def _cpu_seconds() -> float:
    """Return what this process and those that it started took on a core."""
    taken = os.times()
    return sum(taken[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    files = parser.parse_args().files
    family = get_family("sd15")
    with tempfile.TemporaryDirectory() as place:
        folder, library = Path(place) / "loras", Library(Path(place) / "home", bundled=())
        for number in range(files):
            write(folder, number)
        paths = list(folder.rglob("*.safetensors"))
        size = sum(file.stat().st_size for file in paths)

        def look() -> Discovery:
            return discover(FolderOfFiles(folder, family, library), library, family)

        def seconds(work: Callable[[], Any]) -> dict[str, float]:
            start, core = time.perf_counter(), _cpu_seconds()
            work()
            return {
                "seconds": round(time.perf_counter() - start, 2),
                "cpu seconds": round(_cpu_seconds() - core, 2),
            }

        def register() -> None:
            register_library(Path(place) / "home", family.name)

        def plan() -> None:
            words = ["plan", PROMPT, "--home", f"{place}/home", "--family", family.name]
            done = subprocess.run(
                [sys.executable, "-m", "flows.cli", *words],
                cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
            )  # fmt: skip
            sys.stderr.write(done.stdout)

        def hashed(threads: int) -> float:
            table, start = Path(place) / f"{threads}/references.jsonl", time.perf_counter()
            list(hash_files(paths[:HASHED], References(table), threads=threads))
            some = sum(file.stat().st_size for file in paths[:HASHED])
            return round(some / 1e6 / (time.perf_counter() - start))

        for file in paths[:HASHED]:
            sha256_of(file)  # in vain: the system makes pages of a hole once
        figures = {
            "files": files,
            "bytes a file": size // files,
            "first look": timed(look),
            "second look": timed(look),
            "register": seconds(register),
            "register again": seconds(register),
            "first plan": seconds(plan),
            "second plan": seconds(plan),
            "MB/s hashed by threads": {str(threads): hashed(threads) for threads in (1, 2, 4)},
        }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
