"""The recipe's own command: `python -m diffgraph.recipe STAGE`."""

import argparse
import logging
from pathlib import Path

from diffgraph.families.emoji64 import ASSETS
from diffgraph.recipe import stages
from diffgraph.recipe.document import write_document
from diffgraph.recipe.proofs import ProofConfig, prove
from diffgraph.recipe.publish import publish
from diffgraph.recipe.train_scorers import make_scorers


def main() -> None:
    """Run a stage of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m diffgraph.recipe",
        description=stages.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stage", choices=("base", "refine", "experts", "scorers", "publish", "prove")
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"), help="the packed art")
    parser.add_argument("--out", type=Path, default=Path("out/emoji64"), help="what is made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpus", default="0", help="GPU numbers, comma-separated")
    parser.add_argument("--workers", type=int, default=4, help="processes that train experts")
    parser.add_argument("--only", default="", help="slugs, comma-separated: train them right here")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where proofs are told")
    parser.add_argument("--rehearse", action="store_true", help="a few steps of everything")
    parser.add_argument("--base-seconds", type=float, help="how long the UNet learns")
    parser.add_argument("--autoencoder-seconds", type=float)
    parser.add_argument("--scorer-seconds", type=float, default=60.0, help="each of the five")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    workshop = workshop_of(given)
    if given.stage == "base":
        stages.make_base(workshop, ASSETS / "base" / "tokenizer")
    elif given.stage == "refine":
        stages.refine_base(workshop)
    elif given.stage == "publish":
        publish(workshop.out, ASSETS, given.device)
    elif given.stage == "prove":
        config = ProofConfig.small() if given.rehearse else ProofConfig()
        prove(workshop.out, given.device, config, workshop.cache)
        write_document(workshop.out / "proofs", given.docs)
    elif given.stage == "scorers":
        make_scorers(
            workshop.art(),
            workshop.out / "base",
            workshop.out / "weights",
            workshop.out,
            given.device,
            given.scorer_seconds,
        )
    elif given.only:
        stages.make_some_experts(workshop, given.only.split(","))
    else:
        gpus = [int(gpu) for gpu in given.gpus.split(",")] if given.device == "cuda" else []
        stages.make_experts(workshop, gpus, given.workers)


def workshop_of(given: argparse.Namespace) -> stages.Workshop:
    """Return the workshop that the arguments describe."""
    from dataclasses import replace

    workshop = stages.Workshop(given.cache, given.out, given.device)
    if given.rehearse:
        return stages.rehearsal(workshop)
    if given.base_seconds:
        workshop = replace(
            workshop, denoiser=replace(workshop.denoiser, seconds=given.base_seconds)
        )
    if given.autoencoder_seconds:
        seconds = given.autoencoder_seconds
        workshop = replace(workshop, autoencoder=replace(workshop.autoencoder, seconds=seconds))
    return workshop


if __name__ == "__main__":
    main()
