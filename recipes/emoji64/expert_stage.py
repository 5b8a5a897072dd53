"""How are dozens of experts trained as fast as the GPUs allow? In several processes."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

from diffgraph.artifacts import write_text
from diffgraph.errors import MissingInput
from recipes.emoji64.art import Art
from recipes.emoji64.community import Recipe, recipe_of
from recipes.emoji64.finetune import train_adapter, train_checkpoint
from recipes.emoji64.processes import run_in_processes, shares_of
from recipes.emoji64.recipe_settings import RecipeSettings
from recipes.emoji64.training_data import expert_training_data

log = logging.getLogger(__name__)


def make_experts(settings: RecipeSettings) -> list[Path]:
    """Train every expert that is not there yet, in several processes over the GPUs."""
    todo = sorted(settings.missing(), key=lambda recipe: -recipe.steps)
    started = time.perf_counter()
    shares = shares_of([recipe.slug for recipe in todo], settings.workers)
    run_in_processes(settings, "experts", shares)
    log.info("experts: %.0f s", time.perf_counter() - started)
    lost = [recipe.slug for recipe in settings.missing()]
    if lost:
        raise MissingInput(f"experts that were not made: {', '.join(lost)}")
    return [settings.weights(recipe) for recipe in settings.community()]


def make_some_experts(settings: RecipeSettings, slugs: Sequence[str]) -> None:
    """Train these experts in this process."""
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    base = StableDiffusion.from_folder("emoji64", settings.base(), EMOJI64.sampler, settings.device)
    art = settings.art()
    for slug in slugs:
        recipe = recipe_of(slug)
        if not settings.weights(recipe).is_file():
            try:
                make_expert(settings, recipe, base, art)
            except RuntimeError:  # one expert's trouble must not cost the others their time
                log.exception("%s was not made", slug)


def make_expert(settings: RecipeSettings, recipe: Recipe, base: Any, art: Art) -> Path:
    """Train one expert and write its file, and beside it how it was made."""
    path = settings.weights(recipe)
    started = time.perf_counter()
    data = expert_training_data(recipe, art, base.vae, base.tokenizer, settings.expert_pictures)
    scaled = replace(recipe, steps=max(2, round(recipe.steps * settings.expert_steps)))
    train = train_checkpoint if recipe.kind == "checkpoint" else train_adapter
    student, report = train(base.unet, base.text_encoder, scaled, data, settings.expert_batch)
    record = {
        **asdict(recipe),
        "released": recipe.released.isoformat(),
        "train_seconds": round(report.seconds, 1),
        "final_loss": report.losses[-1],
        "batch": settings.expert_batch,
        "pictures": len(data.latents),
    }
    # before the weights: whatever has weights has its record, even if this process is killed
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    write(student, recipe, base, path)
    log.info(
        "%s: %.0f s, %d KB", recipe.slug, time.perf_counter() - started, path.stat().st_size // 1024
    )
    return path


def write(student: Any, recipe: Recipe, base: Any, path: Path) -> None:
    """Write what was learnt as the recipe's maker publishes it."""
    from recipes.emoji64.writing import Layout, write_adapter, write_checkpoint

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
