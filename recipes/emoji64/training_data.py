"""What each model learns from: the art as latents, and captions in several wordings.

The base learns plain art. A quarter of its captions name a treatment that the picture does not
show, so that it keeps calm when a prompt asks for one: the treatments are what its experts add.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES, Art
from recipes.emoji64.autoencoder import encode
from recipes.emoji64.community import Recipe
from recipes.emoji64.denoiser import TrainingData
from recipes.emoji64.treatments import TREATMENTS, compose

WORDINGS = 16  # a picture
MAX_SHIFT = 2  # pixels; small moves keep a model from learning single pixels by heart
SILENT_SHARE = 0.2  # of an adapter's captions do not name its treatment: many makers' do not either


def flatten(art: Art, indices: Tensor, treatments: Sequence[str], device: torch.device) -> Tensor:
    """Return pictures on white with treatments applied: uint8 (n, 3, 64, 64), on the device."""
    parts = []
    for part in indices.split(1024):
        planes = art.images[part].to(device).permute(0, 3, 1, 2).float() / 255
        made = compose(planes[:, :3], planes[:, 3:], treatments)
        parts.append((made.clamp(0, 1) * 255).round().byte())
    return torch.cat(parts)


def shifted(art: Art, generator: torch.Generator) -> Art:
    """Return the art with every picture moved by up to `MAX_SHIFT` pixels; the rest is cut off."""
    images = torch.zeros_like(art.images)
    moves = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (len(images), 2), generator=generator)
    for down in range(-MAX_SHIFT, MAX_SHIFT + 1):
        for right in range(-MAX_SHIFT, MAX_SHIFT + 1):
            own = (moves == torch.tensor([down, right])).all(1)
            rolled = torch.roll(art.images[own], (down, right), (1, 2))
            _clear_edge(rolled, 1, down)
            _clear_edge(rolled, 2, right)
            images[own] = rolled
    return Art(images, art.subject, art.style, art.subjects)


def _clear_edge(images: Tensor, axis: int, move: int) -> None:
    if move:
        start = 0 if move > 0 else images.shape[axis] + move
        images.narrow(axis, start, abs(move)).zero_()


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return token ids (texts, tokens), padded and cut to the family's length."""
    ids: Tensor = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids.int()


def captioned(  # noqa: PLR0913 (all that a wording depends on)
    art: Art,
    indices: Tensor,
    tokenizer: Any,
    named: Sequence[str],
    silent: float,
    distracted: float,
    seed: int,
    wordings: int = WORDINGS,
) -> Tensor:
    """Return some wordings of each picture: (pictures, wordings, tokens).

    Args:
        art: of which pictures are described.
        indices: which.
        tokenizer: the base's.
        named: the treatments to name.
        silent: the share of captions that name none of them.
        distracted: the share that names one that cannot be seen.
        seed: draws the words.
        wordings: how many.
    """
    rng = np.random.default_rng(seed)
    names = sorted(TREATMENTS)
    texts = []
    for index in indices.tolist():
        subject, style = art.subjects[art.subject[index]], STYLES[art.style[index]]
        for number in range(wordings):
            named_treatments = [] if rng.random() < silent else list(named)
            if rng.random() < distracted:
                named_treatments.append(str(rng.choice(names)))
            texts.append(
                captions.caption(subject, style if number % 3 else None, named_treatments, rng)
            )
    ids = tokenize(tokenizer, texts)
    return ids.view(len(indices), wordings, -1)


def base_training_data(art: Art, vae: Any, tokenizer: Any, seed: int) -> TrainingData:
    """Return all the art, each picture in place and moved twice, with plain captions."""
    device = next(vae.parameters()).device
    everything = torch.arange(len(art))
    generator = torch.Generator().manual_seed(seed)
    copies = [art, shifted(art, generator), shifted(art, generator)]
    latents = [encode(vae, flatten(copy, everything, (), device)) for copy in copies]
    ids = [
        captioned(art, everything, tokenizer, (), 0.0, 0.25, seed + number)
        for number in range(len(copies))
    ]
    return TrainingData(torch.cat(latents), torch.cat(ids), tokenize(tokenizer, [""])[0])


def expert_training_data(
    recipe: Recipe, art: Art, vae: Any, tokenizer: Any, pictures: int
) -> TrainingData:
    """Return what an expert learns from: pictures of its subjects, styles and treatments."""
    device = next(vae.parameters()).device
    indices = art.where(recipe.groups or None, recipe.styles or None)
    generator = torch.Generator().manual_seed(recipe.seed)
    indices = indices[torch.randperm(len(indices), generator=generator)[:pictures]]
    chosen = art.select(indices)
    everything = torch.arange(len(chosen))
    copies = [chosen, shifted(chosen, generator)]
    latents = [encode(vae, flatten(copy, everything, recipe.treatments, device)) for copy in copies]
    silent = SILENT_SHARE if recipe.kind == "peft" else 0.0
    ids = captioned(chosen, everything, tokenizer, recipe.treatments, silent, 0.15, recipe.seed)
    return TrainingData(torch.cat(latents), ids.repeat(2, 1, 1), tokenize(tokenizer, [""])[0])
