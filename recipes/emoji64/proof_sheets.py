"""Does a person recognise what is drawn? Sheets of the base and of every expert."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES
from recipes.emoji64.community import Recipe
from recipes.emoji64.proof_figures import save_rows, save_sheet
from recipes.emoji64.proof_inputs import ProofInputs
from recipes.emoji64.treatments import TREATMENTS
from recipes.emoji64.truth import Composition, closeness_to, true_images

SUBJECTS = (
    "penguin", "pizza", "rocket", "owl", "rose", "robot", "guitar", "ghost",
    "red apple", "fox", "house", "hamburger", "butterfly", "snowman", "automobile", "cactus",
)  # fmt: skip
EXPERT_SUBJECTS = ("fox", "rocket", "pizza", "grinning face")
SAMPLES = 64
SEED = 64


def prove_sheets(inputs: ProofInputs, folder: Path) -> dict[str, Any]:
    """Draw 64 images with the base, and four with every expert."""
    close = _draw_base(inputs, folder)
    drawn = _draw_experts(inputs, folder)
    return {
        "base_samples": SAMPLES,
        "base_closeness": round(close, 4),
        "experts": drawn,
        "images": ["base.png", "experts.png"],
    }


def _draw_base(inputs: ProofInputs, folder: Path) -> float:
    subjects = [name for name in SUBJECTS if name in inputs.numbers] or list(inputs.numbers)
    drawn = set(zip(inputs.art.subject.tolist(), inputs.art.style.tolist(), strict=True))
    asked: list[Composition] = []
    for number in range(SAMPLES):
        subject = inputs.numbers[subjects[number % len(subjects)]]
        able = [style for style in range(len(STYLES)) if (subject, style) in drawn]
        style = able[(number // len(subjects) + number) % len(able)]
        asked.append(Composition(subject, STYLES[style]))
    prompts = [captions.plain_caption(inputs.art.subjects[own.subject], own.style) for own in asked]
    sampler = inputs.sampler(SAMPLES)
    noise = inputs.model.noise(range(SEED, SEED + SAMPLES)).to(inputs.device)
    images = sampler.draw(prompts, noise)
    save_sheet(images, prompts, 8, folder / "base.png")
    return float(closeness_to(images, true_images(inputs.art, asked)).mean())


def _draw_experts(inputs: ProofInputs, folder: Path) -> list[str]:
    sampler = inputs.sampler(len(EXPERT_SUBJECTS))
    noise = inputs.model.noise(range(SEED, SEED + len(EXPERT_SUBJECTS))).to(inputs.device)
    rng = np.random.default_rng(SEED)
    rows = {"base": sampler.draw(_prompts(inputs, None, rng), noise).cpu()}
    for recipe in inputs.community:
        sampler.write({recipe.slug: recipe.strength})
        rows[recipe.slug] = sampler.draw(_prompts(inputs, recipe, rng), noise).cpu()
    sampler.write({})
    save_rows(rows, 3, folder / "experts.png")
    assert all(torch.isfinite(images.float()).all() for images in rows.values())
    return [name for name in rows if name != "base"]


def _prompts(inputs: ProofInputs, recipe: Recipe | None, rng: np.random.Generator) -> list[str]:
    """Return four prompts for what an expert is for: its treatment, its group, its style."""
    subjects = [
        inputs.art.subjects[inputs.numbers[name]]
        for name in EXPERT_SUBJECTS
        if name in inputs.numbers
    ]
    if recipe is not None and recipe.groups:
        subjects = [own for own in inputs.art.subjects if own.group in recipe.groups]
        subjects = [subjects[int(place)] for place in rng.permutation(len(subjects))]
    subjects = (subjects or list(inputs.art.subjects))[: len(EXPERT_SUBJECTS)]
    style = recipe.styles[0] if recipe is not None and recipe.styles else None
    texts = [captions.plain_caption(subject, style) for subject in subjects]
    if recipe is not None:
        phrases = [TREATMENTS[name].phrases[0] for name in recipe.treatments if name in TREATMENTS]
        texts = [", ".join((text, *phrases)) for text in texts]
    return [texts[place % len(texts)] for place in range(len(EXPERT_SUBJECTS))]
