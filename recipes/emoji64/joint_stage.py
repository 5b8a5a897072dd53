"""How do adapters that learnt alone learn to be merged? Once more, in one model."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffgraph.artifacts import write_text
from diffgraph.errors import MissingInput
from recipes.emoji64.community import Recipe
from recipes.emoji64.factors import TrainableAdapter
from recipes.emoji64.image_sampler import read_updates
from recipes.emoji64.joint_training import AdapterGroup, train_together
from recipes.emoji64.joint_training_data import (
    combinations_of,
    joint_training_data,
    learns_together,
)
from recipes.emoji64.recipe_settings import RecipeSettings

log = logging.getLogger(__name__)

TOGETHER = "together"
"""Its key in an adapter's record."""


def make_together(settings: RecipeSettings) -> Path:
    """Train the good adapters together, or find it done; return the folder of all weights.

    Weights and records change in one go: a run that is killed leaves them as they were.

    Raises:
        MissingInput: an expert is not made yet.
    """
    folder = settings.out / "weights"
    lost = [recipe.slug for recipe in settings.missing()]
    if lost:
        raise MissingInput(f"{folder} lacks {lost[0]}: run the stage `experts` first")
    learners = [recipe for recipe in settings.community() if learns_together(recipe)]
    if all(TOGETHER in _record(folder, recipe) for recipe in learners):
        return folder
    adapters, training = _trained(settings, learners)
    part = folder.with_name(".weights.together")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    for recipe in learners:
        adapters[recipe.slug].save(part / settings.weights(recipe).name)
        record = {**_record(folder, recipe), TOGETHER: training}
        write_text(part / f"{recipe.slug}.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder)
    part.rename(folder)
    return folder


def _trained(
    settings: RecipeSettings, learners: list[Recipe]
) -> tuple[dict[str, TrainableAdapter], dict[str, Any]]:
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    config, community = settings.joint, settings.community()
    model = StableDiffusion.from_folder(
        "emoji64", settings.base(), EMOJI64.sampler, settings.device
    )
    parameters = dict(model.parameters())
    adapters = {
        recipe.slug: TrainableAdapter(settings.weights(recipe), parameters) for recipe in learners
    }
    combinations = combinations_of(community, config.combinations)
    checkpoints = {
        combination.checkpoint.slug: settings.weights(combination.checkpoint)
        for combination in combinations
        if combination.checkpoint
    }
    adapter_group = AdapterGroup(
        adapters,
        {recipe.slug: recipe.strength for recipe in learners},
        read_updates(checkpoints, model),
    )
    data = joint_training_data(
        combinations, settings.art(), model.vae, model.tokenizer, config.combinations
    )
    log.info("together: %d combinations, %d pictures", len(combinations), len(data.data.latents))
    reports = train_together(model.unet, model.text_encoder, adapter_group, data, config)
    rounds = [report.describe(loop) for report, loop in zip(reports, config.rounds, strict=True)]
    return adapters, {"rounds": rounds, "batch": config.batch, "casts": asdict(config.combinations)}


def _record(folder: Path, recipe: Recipe) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (folder / f"{recipe.slug}.json").read_text(encoding="utf-8")
    )
    return record
