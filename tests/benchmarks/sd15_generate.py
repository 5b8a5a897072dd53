"""How long do images of SD1.5's size take, beside diffusers with the same LoRAs fused?

`python tests/benchmarks/sd15_generate.py [--device cuda] [--small]`: a base with random weights and
three LoRAs are written to a folder; then (a) four images are drawn in one process, the two by turns
and each first half of the time, and (b) each draws a first image in processes of its own, from the
start to the written PNG. Same files, steps, guidance, sampler and type of numbers. Neither Prefect
nor MLflow is needed.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

OURS, THEIRS = "diffgraph", "diffusers"
STRENGTHS = (0.8, 0.6, 0.4)
PROMPT = "a lighthouse by the sea at night, oil painting, warm light"
IMAGES = 4


def write_files(folder: Path, small: bool) -> None:
    """Write a base in the diffusers layout, and the LoRAs as kohya's trainers do."""
    import sd15
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    from diffgraph.families.emoji64 import ASSETS

    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "base" / "tokenizer", local_files_only=True)
    tokenizer.model_max_length = 77
    text_encoder = sd15.build_text_encoder(small, "cpu")
    if small:  # of fewer words than the tokenizer has
        text_encoder.resize_token_embeddings(len(tokenizer))
    widths = (16, 16, 16, 16) if small else (128, 256, 512, 512)
    unet = sd15.build_unet(small, "cpu")
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8 if small else 32,
            sample_size=8 * unet.config.sample_size,
        ),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    resident = sd15.Resident(parts, "cpu", torch.float32)
    for number in range(len(STRENGTHS)):
        sd15.write_kohya(resident, 4 if small else 16, number, folder / f"lora{number}.safetensors")
    pipeline.to(torch.float32 if small else torch.float16).save_pretrained(folder / "base")


def steps_of(small: bool) -> int:
    from diffgraph.families.sd15 import SD15

    return 2 if small else SD15.sampler.steps


def ours(folder: Path, device: str, small: bool) -> Callable[[int], list[Any]]:
    """Return what draws that many images with the three LoRAs merged."""
    from dataclasses import replace

    from diffgraph.artifacts import sha256_of
    from diffgraph.experts.expert import Expert
    from diffgraph.families.family import SamplerConfig
    from diffgraph.families.sd15 import SD15, load
    from diffgraph.generation import Renderer, as_image
    from diffgraph.merging.plan import MergePlan, PlannedExpert

    files = sorted(folder.glob("lora*.safetensors"))

    experts = [
        Expert(ref=f"hub:{n}@1", name=file.stem, kind="peft", family="sd15", sha256=sha256_of(file))
        for n, file in enumerate(files)
    ]

    class Loras:
        def get(self, ref: str) -> Expert:
            return next(expert for expert in experts if expert.ref == ref)

        def path_of(self, sha256: str) -> Path:
            return next(f for f, e in zip(files, experts, strict=True) if e.sha256 == sha256)

    sampler = SamplerConfig(steps=steps_of(small), guidance=SD15.sampler.guidance)
    family = replace(SD15, sampler=sampler)
    renderer = Renderer(family, Loras(), model=load(device, place=str(folder / "base")))
    plan = MergePlan(
        family="sd15",
        experts=tuple(
            PlannedExpert(ref=f"hub:{number}@1", kind="peft", coefficient=strength)
            for number, strength in enumerate(STRENGTHS)
        ),
    )

    def draw(count: int) -> list[Any]:
        pixels = renderer.render(plan, [PROMPT] * count, range(count))
        return [as_image(image, plan) for image in pixels]

    draw.renderer = renderer  # type: ignore[attr-defined]
    return draw


def theirs(folder: Path, device: str, small: bool) -> Callable[[int], list[Any]]:
    """Return the same of diffusers' pipeline with the LoRAs fused."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    from diffgraph.families.sd15 import SD15

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder / "base",
        torch_dtype=torch.float32 if device == "cpu" else torch.float16,
        local_files_only=True,
    ).to(device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    names = [f"lora{number}" for number in range(len(STRENGTHS))]
    for name in names:
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters(names, list(STRENGTHS))
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()

    def draw(count: int) -> list[Any]:
        found: list[Any] = pipeline(
            [PROMPT] * count,
            num_inference_steps=steps_of(small),
            guidance_scale=SD15.sampler.guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(count)],
        ).images
        return found

    return draw


MAKERS = {OURS: ours, THEIRS: theirs}


def first_image(maker: str, folder: Path, device: str, small: bool) -> None:
    """Draw one image and write it: what a fresh process does."""
    import sd15

    sd15.be_quiet()
    image = MAKERS[maker](folder, device, small)(1)[0]
    image.save(folder / f"{maker}.png")


def by_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Return each one's median seconds, and the median of the rounds' ratios, ours to theirs."""
    from measuring import say

    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):  # the first warms up
        for name in list(works)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            works[name]()
            taken[name].append(time.perf_counter() - start)
            say(f"{name}: {taken[name][-1]:.3f} s")
    ratios = [one / other for one, other in zip(*(taken[name][1:] for name in MAKERS), strict=True)]
    return {
        **{f"{name} s": round(statistics.median(taken[name][1:]), 4) for name in MAKERS},
        "ratio": round(statistics.median(ratios), 4),
        "ratios from, to": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def measure(
    folder: Path, device: str, small: bool, rounds: int = 7, starts: int = 5
) -> dict[str, Any]:
    """Return the figures of both questions."""
    import numpy as np
    import sd15

    sd15.be_quiet()
    write_files(folder, small)

    def start(maker: str) -> None:
        command = [sys.executable, __file__, "--device", device, "--first-image", maker]
        command += [f"--folder={folder}", *(["--small"] if small else [])]
        subprocess.run(command, check=True)

    started = by_turns({name: lambda name=name: start(name) for name in MAKERS}, starts)
    draw = {name: make(folder, device, small) for name, make in MAKERS.items()}
    pairs = zip(*(draw[name](IMAGES) for name in MAKERS), strict=True)
    apart = [abs(np.asarray(one).astype(int) - np.asarray(other)) for one, other in pairs]
    drawn = by_turns({name: lambda name=name: draw[name](IMAGES) for name in MAKERS}, rounds)

    def anew() -> None:
        renderer = draw[OURS].renderer  # type: ignore[attr-defined]
        renderer.merger.reset()
        renderer._applied = ""
        draw[OURS](IMAGES)

    merged_anew = by_turns({OURS: anew, THEIRS: lambda: draw[THEIRS](IMAGES)}, max(1, rounds // 2))
    return {
        "images": IMAGES,
        "steps": steps_of(small),
        "mean difference of the images, levels of 255": round(float(np.mean(apart)), 3),
        "drawn": drawn,
        "drawn, ours merged anew each time": merged_anew,
        "first image of a process": started,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="little channels: try the script out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first-image", choices=list(MAKERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first_image:
        first_image(given.first_image, given.folder, given.device, given.small)
        return
    from measuring import tell

    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.device, given.small, given.rounds, given.starts)
    tell(f"sd15-generate, {given.device}", figures)


if __name__ == "__main__":
    main()
