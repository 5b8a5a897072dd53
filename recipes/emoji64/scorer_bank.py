"""How do scorers learn to know all subjects? From the art itself, with treatments applied.

Drawing takes seconds for what composing takes milliseconds, so drawn groups show each subject once
or twice. The bank holds every subject many times: blocks of subjects, each in all its styles, under
several sets of treatments, with wordings. The pairs of treatments that are held out for tests are
not in it, nor is anything that the bench asks for.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgraph.families.emoji64.scorers.learned import token_ids
from diffgraph.families.emoji64.scorers.networks import TEXT_TOKENS
from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES, Art
from recipes.emoji64.scorer_plans import asked_by_bench, treatment_sets
from recipes.emoji64.truth import Truths, composed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankConfig:
    """How much is composed."""

    blocks: int = 240
    together: int = 4  # sets of treatments a block: the same subjects in each
    subjects: int = 40  # a block
    seed: int = 3


@dataclass(frozen=True)
class Bank:
    """Composed pictures, all on one device.

    `sets` counts over all blocks; those of one block follow each other and share their subjects.
    """

    images: Tensor  # (sets, subjects, styles, 3, 64, 64), uint8
    drawn: Tensor  # (sets, subjects, styles), bool: the style exists; a filler otherwise
    ids: Tensor  # (sets, subjects, 1 + styles, tokens): no style named, then each
    together: int

    def truths(self, chosen: Tensor, subject: Tensor, wording: Tensor) -> Truths:
        """Return what prompts ask for: any style that is drawn, or the one that is named.

        Args:
            chosen: sets, (g,).
            subject: (g,).
            wording: 0 or 1 + the style, (g,).
        """
        drawn = self.drawn[chosen, subject]
        styles = torch.arange(drawn.shape[1], device=drawn.device)
        named = styles == (wording - 1).unsqueeze(1)
        return Truths(
            self.images[chosen, subject],
            torch.where((wording == 0).unsqueeze(1), drawn, named),
        )


def compose_bank(art: Art, tokenizer: Any, config: BankConfig) -> Bank:
    """Compose the bank on the art's device."""
    started = time.perf_counter()
    rng = np.random.default_rng(config.seed)
    where = {
        pair: place
        for place, pair in enumerate(zip(art.subject.tolist(), art.style.tolist(), strict=True))
    }
    count = config.blocks * config.together
    whole = treatment_sets(count - count // 2, False, rng)
    order = np.resize(rng.permutation(len(whole)), count - count // 2)
    # each set beside a part of it: what is missing must be missed
    sets = [names for place in order for names in (whole[place], _part(whole[place], rng))][:count]
    blocks = [sets[start : start + config.together] for start in range(0, count, config.together)]
    rows = [
        row
        for block, subjects in zip(blocks, _subjects(art, blocks, config, rng), strict=True)
        for row in (_row(art, where, subjects, names, rng, tokenizer) for names in block)
    ]
    log.info("bank of %d sets in %.0f s", len(sets), time.perf_counter() - started)
    images, drawn, ids = (torch.stack(part) for part in zip(*rows, strict=True))
    return Bank(images, drawn, ids, config.together)


def _part(treatments: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Return the treatments without one of them."""
    gone = int(rng.integers(len(treatments))) if treatments else 0
    return treatments[:gone] + treatments[gone + 1 :]


def _subjects(
    art: Art,
    blocks: Sequence[Sequence[tuple[str, ...]]],
    config: BankConfig,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Return each block's subjects, all of them about as often, none that the bench asks for."""
    asked = asked_by_bench()
    used = dict.fromkeys(sorted(set(art.subject.tolist())), 0)
    chosen = []
    for block in blocks:
        free = [
            subject
            for subject in used
            if not any((art.subjects[subject].name, tuple(sorted(own))) in asked for own in block)
        ]
        tired = np.array([used[subject] for subject in free]) + rng.random(len(free))
        own = [free[int(place)] for place in np.resize(np.argsort(tired), config.subjects)]
        for subject in own:
            used[subject] += 1
        chosen.append(own)
    return chosen


def _row(
    art: Art,
    where: dict[tuple[int, int], int],
    subjects: Sequence[int],
    treatments: tuple[str, ...],
    rng: np.random.Generator,
    tokenizer: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pictures of one set of treatments, which styles exist, and the wordings."""
    device = art.images.device
    places, drawn, texts = [], [], []
    for subject in subjects:
        own = [where.get((subject, style)) for style in range(len(STYLES))]
        anyone = next(place for place in own if place is not None)
        places.append([anyone if place is None else place for place in own])
        drawn.append([place is not None for place in own])
        texts += [
            captions.caption(art.subjects[subject], style, list(treatments), rng)
            for style in (None, *STYLES)
        ]
    flat = torch.tensor(places, device=device).flatten()
    images = composed(art, flat, treatments).view(len(places), len(STYLES), 3, 64, 64)
    ids = token_ids(tokenizer, texts).to(device).view(len(places), 1 + len(STYLES), TEXT_TOKENS)
    return images, torch.tensor(drawn, device=device), ids
