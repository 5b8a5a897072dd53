"""How are the scorers made? Their images are drawn, then they learn: here, or on several GPUs.

Everything has a name, by which another process can be asked for it: `training-0`, `training-1`, …
and `test` are files of drawn images, the others are scorers. What is made is not made again.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from diffgraph.errors import InputError, MissingInput
from diffgraph.families.emoji64 import EMOJI64
from diffgraph.families.emoji64.scorers.learned import CONFIG
from diffgraph.families.stable_diffusion import StableDiffusion
from recipes.emoji64.community import COMMUNITY
from recipes.emoji64.image_sampler import ImageSampler, read_updates
from recipes.emoji64.processes import run_in_processes, shares_of
from recipes.emoji64.recipe_settings import RecipeSettings
from recipes.emoji64.scorer_data import joined, load_data, make_data, save_data
from recipes.emoji64.train_scorers import ORDER, train_scorers

log = logging.getLogger(__name__)

TEST = "test"


def make_scorers(settings: RecipeSettings) -> None:
    """Draw the data with the base and the experts and train all five scorers; resumable.

    Raises:
        MissingInput: a process ended without what it was to make.
    """
    if not missing(settings, ORDER):
        return  # without reading gigabytes of images first
    started = time.perf_counter()
    if len(settings.gpus) == 1:
        make_some_scorers(settings, [*data_names(settings), *ORDER])
    else:
        # the others begin with what the first one knows
        for together in (data_names(settings), ORDER[:1], ORDER[1:]):
            shares = shares_of(missing(settings, together), len(settings.gpus))
            run_in_processes(settings, "scorers", shares)
            lost = missing(settings, together)
            if lost:
                raise MissingInput(f"of the scorers, this was not made: {', '.join(lost)}")
    log.info("scorers: %.0f s", time.perf_counter() - started)


def make_some_scorers(settings: RecipeSettings, names: Collection[str]) -> None:
    """Draw these files and train these scorers in this process.

    Raises:
        InputError: a name is unknown.
        MissingInput: a scorer is wanted, and its data are neither drawn nor wanted.
    """
    known = [*data_names(settings), *ORDER]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"no scorer or data {unknown[0]!r}, expected some of: {', '.join(known)}")
    wanted = [name for name in ORDER if name in names]
    lost = [name for name in missing(settings, data_names(settings)) if name not in names]
    if wanted and lost:
        raise MissingInput(f"{wanted[0]} learns from data that are not drawn: {', '.join(lost)}")
    torch.set_float32_matmul_precision("high")
    model = StableDiffusion.from_folder(
        "emoji64", settings.base(), EMOJI64.sampler, settings.device
    )
    drawn = missing(settings, [name for name in data_names(settings) if name in names])
    if drawn:
        _draw(settings, model, drawn)
    if not wanted:
        return
    *parts, test = (
        load_data(path_of(settings, name), settings.device) for name in data_names(settings)
    )
    art = settings.art()
    train_scorers(
        joined(parts),
        test,
        replace(art, images=art.images.to(settings.device)),
        model.tokenizer,
        settings.out / "scorers",
        settings.scorer_seconds,
        settings.scorer_training,
        wanted,
    )


def data_names(settings: RecipeSettings) -> list[str]:
    """Return the names of the files of drawn images, the test's last."""
    return [*(f"training-{part}" for part in range(settings.scorer_data.parts)), TEST]


def path_of(settings: RecipeSettings, name: str) -> Path:
    """Return what shows that it is made."""
    if name in ORDER:
        return settings.out / "scorers" / name / CONFIG
    return settings.out / "scorer_data" / f"{name}.safetensors"


def missing(settings: RecipeSettings, names: Sequence[str]) -> list[str]:
    """Return which of these are not made yet."""
    return [name for name in names if not path_of(settings, name).is_file()]


def _draw(settings: RecipeSettings, model: StableDiffusion, names: Sequence[str]) -> None:
    """Draw some files; experts whose weights are not there are left out."""
    config, art = settings.scorer_data, settings.art()
    files = {recipe.slug: settings.weights(recipe) for recipe in COMMUNITY}
    here = {slug: path for slug, path in files.items() if path.is_file()}
    sampler = ImageSampler(model, read_updates(here, model), config.prompts)
    placed = replace(art, images=art.images.to(model.device))
    for name in names:
        held_out = name == TEST
        part = 0 if held_out else data_names(settings).index(name)
        save_data(make_data(sampler, placed, config, held_out, part), path_of(settings, name))
