"""The recipe's own command: `python -m recipes.emoji64 STAGE`; `make emoji64` runs them all."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from diffgraph.errors import DiffgraphError
from recipes.emoji64 import stages
from recipes.emoji64.expert_stage import make_some_experts
from recipes.emoji64.proofs import ProofConfig
from recipes.emoji64.recipe_settings import RecipeSettings, rehearsal
from recipes.emoji64.scorer_stage import make_some_scorers

HERE = {"experts": make_some_experts, "scorers": make_some_scorers}


def main() -> None:
    """Run a stage of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.emoji64",
        description=stages.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=tuple(stages.STAGES))
    add_settings(parser)
    parser.add_argument(
        "--only",
        default="",
        help="what a stage makes, right here: experts, scorers and their data (training-0, …, "
        "test), or proofs; comma-separated",
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    only = tuple(filter(None, given.only.split(",")))
    try:
        _run(given.stage, settings_of(given), only)
    except DiffgraphError as error:
        parser.exit(1, f"{error}\n")


def _run(stage: str, settings: RecipeSettings, only: tuple[str, ...]) -> None:
    """Run a stage, or a part of it."""
    if only and stage in HERE:
        HERE[stage](settings, only)
        return
    if only and stage == "prove":
        config = settings.proofs or ProofConfig.for_device(settings.device)
        settings = replace(settings, proofs=replace(config, only=only))
    stages.run_stage(stage, settings)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `settings_of` reads."""
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"), help="the packed art")
    parser.add_argument("--out", type=Path, default=Path("out/emoji64"), help="what is made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpus", default="0", help="GPU numbers, comma-separated")
    parser.add_argument("--workers", type=int, default=4, help="processes that train experts")
    parser.add_argument("--rehearse", action="store_true", help="a few steps of everything")
    parser.add_argument("--base-seconds", type=float, help="how long the UNet learns")
    parser.add_argument("--autoencoder-seconds", type=float)
    parser.add_argument("--scorer-seconds", type=float, default=120.0, help="each of the five")


def settings_of(given: argparse.Namespace) -> RecipeSettings:
    """Return the settings that the arguments describe."""
    settings = RecipeSettings(
        given.cache,
        given.out,
        device=given.device,
        gpus=tuple(int(gpu) for gpu in given.gpus.split(",")),
        workers=given.workers,
        scorer_seconds=given.scorer_seconds,
    )
    if given.rehearse:
        return rehearsal(settings)
    if given.base_seconds:
        learning = replace(settings.denoiser, seconds=given.base_seconds)
        settings = replace(settings, denoiser=learning)
    if given.autoencoder_seconds:
        learning = replace(settings.autoencoder, seconds=given.autoencoder_seconds)
        settings = replace(settings, autoencoder=learning)
    return settings


if __name__ == "__main__":
    main()
