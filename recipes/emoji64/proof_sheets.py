"""Does a person recognise what is drawn? Sheets of the base and of every expert."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES
from recipes.emoji64.community import Recipe
from recipes.emoji64.pictures import save_rows, save_sheet
from recipes.emoji64.studio import Studio
from recipes.emoji64.treatments import TREATMENTS
from recipes.emoji64.truth import Composition, closeness_to, true_images

SUBJECTS = (
    "penguin", "pizza", "rocket", "owl", "rose", "robot", "guitar", "ghost",
    "red apple", "fox", "house", "hamburger", "butterfly", "snowman", "automobile", "cactus",
)  # fmt: skip
EXPERT_SUBJECTS = ("fox", "rocket", "pizza", "grinning face")
SAMPLES = 64
SEED = 64


def prove_sheets(studio: Studio, folder: Path) -> dict[str, Any]:
    """Draw 64 images with the base, and four with every expert."""
    close = _draw_base(studio, folder)
    drawn = _draw_experts(studio, folder)
    return {
        "base_samples": SAMPLES,
        "base_closeness": round(close, 4),
        "experts": drawn,
        "images": ["base.png", "experts.png"],
    }


def _draw_base(studio: Studio, folder: Path) -> float:
    subjects = [name for name in SUBJECTS if name in studio.numbers] or list(studio.numbers)
    drawn = set(zip(studio.art.subject.tolist(), studio.art.style.tolist(), strict=True))
    asked: list[Composition] = []
    for number in range(SAMPLES):
        subject = studio.numbers[subjects[number % len(subjects)]]
        able = [style for style in range(len(STYLES)) if (subject, style) in drawn]
        style = able[(number // len(subjects) + number) % len(able)]
        asked.append(Composition(subject, STYLES[style]))
    prompts = [captions.plain_caption(studio.art.subjects[own.subject], own.style) for own in asked]
    easel = studio.easel(SAMPLES)
    noise = studio.model.noise(range(SEED, SEED + SAMPLES)).to(studio.device)
    images = easel.draw(prompts, noise)
    save_sheet(images, prompts, 8, folder / "base.png")
    return float(closeness_to(images, true_images(studio.art, asked)).mean())


def _draw_experts(studio: Studio, folder: Path) -> list[str]:
    easel = studio.easel(len(EXPERT_SUBJECTS))
    noise = studio.model.noise(range(SEED, SEED + len(EXPERT_SUBJECTS))).to(studio.device)
    rng = np.random.default_rng(SEED)
    rows = {"base": easel.draw(_prompts(studio, None, rng), noise).cpu()}
    for recipe in studio.community:
        easel.write({recipe.slug: recipe.strength})
        rows[recipe.slug] = easel.draw(_prompts(studio, recipe, rng), noise).cpu()
    easel.write({})
    save_rows(rows, 3, folder / "experts.png")
    assert all(torch.isfinite(images.float()).all() for images in rows.values())
    return [name for name in rows if name != "base"]


def _prompts(studio: Studio, recipe: Recipe | None, rng: np.random.Generator) -> list[str]:
    """Return four prompts for what an expert is for: its treatment, its group, its style."""
    subjects = [
        studio.art.subjects[studio.numbers[name]]
        for name in EXPERT_SUBJECTS
        if name in studio.numbers
    ]
    if recipe is not None and recipe.groups:
        subjects = [own for own in studio.art.subjects if own.group in recipe.groups]
        subjects = [subjects[int(place)] for place in rng.permutation(len(subjects))]
    subjects = (subjects or list(studio.art.subjects))[: len(EXPERT_SUBJECTS)]
    style = recipe.styles[0] if recipe is not None and recipe.styles else None
    texts = [captions.plain_caption(subject, style) for subject in subjects]
    if recipe is not None:
        phrases = [TREATMENTS[name].phrases[0] for name in recipe.treatments if name in TREATMENTS]
        texts = [", ".join((text, *phrases)) for text in texts]
    return [texts[place % len(texts)] for place in range(len(EXPERT_SUBJECTS))]
