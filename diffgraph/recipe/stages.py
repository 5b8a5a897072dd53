"""In what order is emoji64 made? Each stage is resumable: what is finished is not made again.

base      autoencoder, then text encoder and UNet together
refine    text encoder and UNet again, with smaller batches from where they were
experts   every checkpoint and adapter of the community, spread over processes and GPUs
scorers   the five, on images that the base and the experts drew
publish   put what was made where the package ships it
prove     four proofs of what it is worth, and the document that tells them
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from diffgraph.artifacts import new_folder, write_text
from diffgraph.errors import MissingInput
from diffgraph.recipe.art import Art, load_art
from diffgraph.recipe.autoencoder import train_autoencoder
from diffgraph.recipe.community import COMMUNITY, Recipe, recipe_of
from diffgraph.recipe.denoiser import train_denoiser
from diffgraph.recipe.finetune import train_adapter, train_checkpoint
from diffgraph.recipe.lessons import base_lessons, expert_lessons, flatten
from diffgraph.recipe.loop import LoopConfig
from diffgraph.recipe.treatments import TREATMENTS

log = logging.getLogger(__name__)

SEED = 20260


AUTOENCODER = LoopConfig(seconds=150, learning_rate=1.5e-3, seed=SEED)
DENOISER = LoopConfig(seconds=280, learning_rate=1.2e-3, seed=SEED + 1)
REFINING = LoopConfig(seconds=165, learning_rate=6e-4, seed=SEED + 2)


@dataclass(frozen=True)
class Workshop:
    """Where the recipe reads and writes, and how big it is."""

    cache: Path  # the packed art
    out: Path  # base/ and weights/ appear below it
    device: str = "cuda"
    autoencoder: LoopConfig = AUTOENCODER
    denoiser: LoopConfig = DENOISER
    batch: int = 768
    refining: LoopConfig = REFINING
    refining_batch: int = 384
    expert_batch: int = 224
    expert_pictures: int = 3000
    expert_steps: float = 1.0  # times each recipe's own; small for a rehearsal
    pictures: int | None = None  # of the art; None is all of it

    def art(self) -> Art:
        """Read the art, or an evenly spaced part of it."""
        art = load_art(self.cache)
        if self.pictures is None:
            return art
        return art.select(torch.arange(0, len(art), max(1, len(art) // self.pictures)))


def rehearsal(workshop: Workshop) -> Workshop:
    """Return the same workshop with everything small: minutes on a CPU, to find mistakes early."""
    few = LoopConfig(steps=3, learning_rate=1e-3)
    return replace(
        workshop,
        autoencoder=few,
        denoiser=few,
        refining=few,
        batch=8,
        refining_batch=8,
        expert_batch=8,
        expert_pictures=24,
        expert_steps=0.004,
        pictures=120,
    )


def make_base(workshop: Workshop, tokenizer_folder: Path) -> Path:
    """Train the base model, or find it made; return its folder in the diffusers layout."""
    folder = workshop.out / "base"
    if (folder / "unet").is_dir():
        return folder
    from transformers import CLIPTokenizer

    from diffgraph.families.emoji64.architecture import (
        build_scheduler,
        build_text_encoder,
        build_unet,
    )

    device = torch.device(workshop.device)
    art = workshop.art()
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    vae, seen = train_autoencoder(autoencoder_pictures(art, device), workshop.autoencoder, device)
    log.info("autoencoder: %d steps in %.0f s", seen.steps, seen.seconds)
    lessons = base_lessons(art, vae, tokenizer, SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)  # noqa: TID251 (diffusers draws first weights from the global generator)
        unet = build_unet().to(device)
        text = build_text_encoder(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
        ).to(device)
    parameters = [*unet.parameters(), *text.parameters()]
    learnt = train_denoiser(
        unet, text, parameters, lessons, workshop.denoiser, workshop.batch, "base"
    )
    with new_folder(folder) as part:
        unet.half().save_pretrained(part / "unet")
        text.half().save_pretrained(part / "text_encoder")
        vae.half().save_pretrained(part / "vae")
        build_scheduler().save_pretrained(part / "scheduler")
        tokenizer.save_pretrained(part / "tokenizer")
        record = {
            "autoencoder": seen.describe(workshop.autoencoder),
            "denoiser": {**learnt.describe(workshop.denoiser), "batch": workshop.batch},
            "pictures": len(art),
        }
        write_text(part / "training.json", json.dumps(record, indent=1) + "\n")
    return folder


def refine_base(workshop: Workshop) -> Path:
    """Train the base's UNet and text encoder once more, in place; a refined one is left alone."""
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    folder = workshop.out / "base"
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if "refining" in record:
        return folder
    model = StableDiffusion.from_folder("emoji64", folder, EMOJI64.sampler, workshop.device)
    lessons = base_lessons(workshop.art(), model.vae, model.tokenizer, SEED + 10)
    parameters = [*model.unet.parameters(), *model.text_encoder.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    learnt = train_denoiser(
        model.unet,
        model.text_encoder,
        parameters,
        lessons,
        workshop.refining,
        workshop.refining_batch,
        "refining",
    )
    model.unet.half().save_pretrained(folder / "unet")
    model.text_encoder.half().save_pretrained(folder / "text_encoder")
    record["refining"] = {**learnt.describe(workshop.refining), "batch": workshop.refining_batch}
    write_text(folder / "training.json", json.dumps(record, indent=1) + "\n")
    return folder


def autoencoder_pictures(art: Art, device: torch.device) -> torch.Tensor:
    """Return plain art and, for every treatment, a share of it treated: uint8 (n, 3, 64, 64)."""
    everything = torch.arange(len(art))
    share = max(1, len(art) // 8)
    parts = [flatten(art, everything, (), device)]
    for number, name in enumerate(sorted(TREATMENTS)):
        generator = torch.Generator().manual_seed(number)
        some = torch.randperm(len(art), generator=generator)[:share]
        parts.append(flatten(art, some, (name,), device))
    return torch.cat(parts)


def make_experts(workshop: Workshop, gpus: Sequence[int], workers: int) -> list[Path]:
    """Train every expert that is not there yet, in `workers` processes over the GPUs."""
    todo = sorted(missing(workshop), key=lambda recipe: -recipe.steps)
    started = time.perf_counter()
    processes = []
    for number in range(min(workers, len(todo))):
        slugs = [recipe.slug for recipe in todo[number::workers]]
        environment = dict(os.environ)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpus[number % len(gpus)])
        command = [
            sys.executable,
            "-m",
            "diffgraph.recipe",
            "experts",
            "--cache",
            str(workshop.cache),
            "--out",
            str(workshop.out),
            "--device",
            workshop.device,
            "--only",
            ",".join(slugs),
        ]
        if workshop.pictures is not None:
            command.append("--rehearse")
        processes.append(subprocess.Popen(command, env=environment))
    for process in processes:
        process.wait()
    log.info("experts: %.0f s", time.perf_counter() - started)
    lost = [recipe.slug for recipe in missing(workshop)]
    if lost:
        raise MissingInput(f"experts that were not made: {', '.join(lost)}")
    return [weights(workshop, recipe) for recipe in COMMUNITY]


def missing(workshop: Workshop) -> list[Recipe]:
    """Return the recipes whose weights are not there."""
    return [recipe for recipe in COMMUNITY if not weights(workshop, recipe).is_file()]


def weights(workshop: Workshop, recipe: Recipe) -> Path:
    """Return where an expert's weights are kept."""
    return workshop.out / "weights" / f"{recipe.slug}.safetensors"


def make_some_experts(workshop: Workshop, slugs: Sequence[str]) -> None:
    """Train these experts in this process."""
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    base = StableDiffusion.from_folder(
        "emoji64", workshop.out / "base", EMOJI64.sampler, workshop.device
    )
    art = workshop.art()
    for slug in slugs:
        recipe = recipe_of(slug)
        if not weights(workshop, recipe).is_file():
            try:
                make_expert(workshop, recipe, base, art)
            except RuntimeError:  # one expert's trouble must not cost the others their time
                log.exception("%s was not made", slug)


def make_expert(workshop: Workshop, recipe: Recipe, base: Any, art: Art) -> Path:
    """Train one expert and write its file, and beside it how it was made."""
    from diffgraph.recipe.writing import Layout, write_adapter, write_checkpoint

    path = weights(workshop, recipe)
    started = time.perf_counter()
    lessons = expert_lessons(recipe, art, base.vae, base.tokenizer, workshop.expert_pictures)
    scaled = replace(recipe, steps=max(2, round(recipe.steps * workshop.expert_steps)))
    train = train_checkpoint if recipe.kind == "checkpoint" else train_adapter
    student, report = train(base.unet, base.text_encoder, scaled, lessons, workshop.expert_batch)
    metadata = {"title": recipe.name, "version": recipe.version}
    if recipe.kind == "checkpoint":
        learnt = {
            f"unet.{name}": value.detach()
            + (1 / recipe.strength - 1) * (value.detach() - base.unet.state_dict()[name])
            for name, value in student.state_dict().items()
        }
        layout: Literal["diffusers", "single_file"] = (
            "single_file" if recipe.layout == "single_file" else "diffusers"
        )
        write_checkpoint(learnt, path, recipe.dtype, metadata, layout=layout)
    else:
        write_adapter(
            student,
            "default",
            recipe.method,
            cast(Layout, recipe.layout),  # only checkpoints are single files
            path,
            recipe.alpha,
            recipe.strength,
            metadata,
        )
    record = {
        **asdict(recipe),
        "released": recipe.released.isoformat(),
        "train_seconds": round(report.seconds, 1),
        "final_loss": report.losses[-1],
        "batch": workshop.expert_batch,
        "pictures": len(lessons.latents),
    }
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    log.info(
        "%s: %.0f s, %d KB", recipe.slug, time.perf_counter() - started, path.stat().st_size // 1024
    )
    return path
