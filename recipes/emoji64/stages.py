"""In what order is emoji64 made? Each stage is resumable: what is finished is not made again.

art       the five emoji sets, fetched and packed
base      autoencoder, then text encoder and UNet together
refine    text encoder and UNet again, with smaller batches from where they were
experts   every checkpoint and adapter of the community, spread over processes and GPUs
together  the good adapters once more, merged with one another
scorers   the five, on images that the base and the experts drew
publish   put what was made where the package ships it
prove     four proofs of what it is worth, and the document on them
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from diffgraph.artifacts import new_folder, write_text
from diffgraph.families.emoji64 import ASSETS
from recipes.emoji64.art import Art, pack_art
from recipes.emoji64.autoencoder import train_autoencoder
from recipes.emoji64.denoiser import train_denoiser
from recipes.emoji64.document import write_document
from recipes.emoji64.expert_stage import make_experts
from recipes.emoji64.joint_stage import make_together
from recipes.emoji64.proofs import prove
from recipes.emoji64.publish import publish
from recipes.emoji64.recipe_settings import SEED, RecipeSettings
from recipes.emoji64.scorer_stage import make_scorers
from recipes.emoji64.training_data import base_training_data, flatten
from recipes.emoji64.treatments import TREATMENTS

log = logging.getLogger(__name__)

TOKENIZER = ASSETS / "base" / "tokenizer"
"""It is made with the prompt sets (tokenizer.py) and ships; the base learns its words."""


def run_stage(name: str, settings: RecipeSettings) -> None:
    """Run a stage, or find that it was run."""
    STAGES[name](settings)


def make_base(settings: RecipeSettings) -> Path:
    """Train the base model, or find it made; return its folder in the diffusers layout."""
    folder = settings.out / "base"
    if (folder / "unet").is_dir():
        return folder
    from transformers import CLIPTokenizer

    from recipes.emoji64.architecture import (
        build_scheduler,
        build_text_encoder,
        build_unet,
    )

    device = torch.device(settings.device)
    art = settings.art()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    vae, seen = train_autoencoder(autoencoder_pictures(art, device), settings.autoencoder, device)
    log.info("autoencoder: %d steps in %.0f s", seen.steps, seen.seconds)
    data = base_training_data(art, vae, tokenizer, SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)  # noqa: TID251 (diffusers draws first weights from the global generator)
        unet = build_unet().to(device)
        text = build_text_encoder(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
        ).to(device)
    parameters = [*unet.parameters(), *text.parameters()]
    learnt = train_denoiser(unet, text, parameters, data, settings.denoiser, settings.batch, "base")
    with new_folder(folder) as part:
        unet.half().save_pretrained(part / "unet")
        text.half().save_pretrained(part / "text_encoder")
        vae.half().save_pretrained(part / "vae")
        build_scheduler().save_pretrained(part / "scheduler")
        tokenizer.save_pretrained(part / "tokenizer")
        record = {
            "autoencoder": seen.describe(settings.autoencoder),
            "denoiser": {**learnt.describe(settings.denoiser), "batch": settings.batch},
            "pictures": len(art),
        }
        write_text(part / "training.json", json.dumps(record, indent=1) + "\n")
    return folder


def refine_base(settings: RecipeSettings) -> Path:
    """Train the base's UNet and text encoder once more; a refined one is left alone."""
    from diffgraph.families.emoji64 import EMOJI64
    from diffgraph.families.stable_diffusion import StableDiffusion

    folder = settings.base()
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if "refining" in record:
        return folder
    model = StableDiffusion.from_folder("emoji64", folder, EMOJI64.sampler, settings.device)
    data = base_training_data(settings.art(), model.vae, model.tokenizer, SEED + 10)
    parameters = [*model.unet.parameters(), *model.text_encoder.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    learnt = train_denoiser(
        model.unet,
        model.text_encoder,
        parameters,
        data,
        settings.refining,
        settings.refining_batch,
        "refining",
    )
    record["refining"] = {**learnt.describe(settings.refining), "batch": settings.refining_batch}
    part = folder.with_name(".base.refined")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    model.unet.half().save_pretrained(part / "unet")
    model.text_encoder.half().save_pretrained(part / "text_encoder")
    write_text(part / "training.json", json.dumps(record, indent=1) + "\n")
    # weights and record change together: a run that is killed never refines what is refined
    shutil.rmtree(folder)
    part.rename(folder)
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


def _art(settings: RecipeSettings) -> None:
    pack_art(settings.cache)


def _publish(settings: RecipeSettings) -> None:
    publish(settings.out, settings.assets, settings.device, settings.community())


def _prove(settings: RecipeSettings) -> None:
    prove(settings.out, settings.device, settings.proofs, settings.cache)
    write_document(settings.out / "proofs", settings.docs, settings.assets)


STAGES: Mapping[str, Callable[[RecipeSettings], object]] = {
    "art": _art,
    "base": make_base,
    "refine": refine_base,
    "experts": make_experts,
    "together": make_together,
    "scorers": make_scorers,
    "publish": _publish,
    "prove": _prove,
}
"""In this order."""
