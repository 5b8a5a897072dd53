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
from recipes.emoji64.drawing import read_updates
from recipes.emoji64.factors import TrainableAdapter
from recipes.emoji64.joint_lessons import casts_of, joint_lessons, learns_together
from recipes.emoji64.joint_training import Company, train_together
from recipes.emoji64.workshop import Workshop

log = logging.getLogger(__name__)

TOGETHER = "together"
"""What an adapter's record tells of it."""


def make_together(workshop: Workshop) -> Path:
    """Train the good adapters together, or find it done; return the folder of all weights.

    Weights and records change in one go: a run that is killed leaves them as they were.

    Raises:
        MissingInput: an expert is not made yet.
    """
    folder = workshop.out / "weights"
    lost = [recipe.slug for recipe in workshop.missing()]
    if lost:
        raise MissingInput(f"{folder} lacks {lost[0]}: run the stage `experts` first")
    learners = [recipe for recipe in workshop.community() if learns_together(recipe)]
    if all(TOGETHER in _record(folder, recipe) for recipe in learners):
        return folder
    adapters, story = _trained(workshop, learners)
    part = folder.with_name(".weights.together")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    for recipe in learners:
        adapters[recipe.slug].save(part / workshop.weights(recipe).name)
        record = {**_record(folder, recipe), TOGETHER: story}
        write_text(part / f"{recipe.slug}.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder)
    part.rename(folder)
    return folder


def _trained(
    workshop: Workshop, learners: list[Recipe]
) -> tuple[dict[str, TrainableAdapter], dict[str, Any]]:
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    config, community = workshop.joint, workshop.community()
    model = StableDiffusion.from_folder(
        "emoji64", workshop.base(), EMOJI64.sampler, workshop.device
    )
    parameters = dict(model.parameters())
    adapters = {
        recipe.slug: TrainableAdapter(workshop.weights(recipe), parameters) for recipe in learners
    }
    casts = casts_of(community, config.casts)
    hosts = {cast.host.slug: workshop.weights(cast.host) for cast in casts if cast.host}
    company = Company(
        adapters,
        {recipe.slug: recipe.strength for recipe in learners},
        read_updates(hosts, model),
    )
    lessons = joint_lessons(casts, workshop.art(), model.vae, model.tokenizer, config.casts)
    log.info("together: %d casts, %d pictures", len(casts), len(lessons.lessons.latents))
    reports = train_together(model.unet, model.text_encoder, company, lessons, config)
    rounds = [report.describe(loop) for report, loop in zip(reports, config.rounds, strict=True)]
    return adapters, {"rounds": rounds, "batch": config.batch, "casts": asdict(config.casts)}


def _record(folder: Path, recipe: Recipe) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (folder / f"{recipe.slug}.json").read_text(encoding="utf-8")
    )
    return record
