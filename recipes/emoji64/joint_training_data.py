"""Which adapters are trained together, and on which pictures?

A combination is some good adapters, at times with a fine-tuned model under them. Its pictures show
the treatments of all of them. Pairs of treatments that the bench asks for are left out: the bench
measures how well experts merge that were not trained together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.emoji64.art import Art
from recipes.emoji64.autoencoder import encode
from recipes.emoji64.community import Recipe
from recipes.emoji64.denoiser import TrainingData
from recipes.emoji64.scorer_plans import is_held_out
from recipes.emoji64.training_data import SILENT_SHARE, captioned, flatten, shifted, tokenize
from recipes.emoji64.treatments import compatible_sets

DISTRACTED_SHARE = 0.1  # of captions name a treatment that cannot be seen


@dataclass(frozen=True)
class CombinationConfig:
    """How many combinations there are, how often each kind is due, and its pictures."""

    pairs: int = 400  # at most; the community has fewer
    triples: int = 240
    hosted: int = 200  # combinations of one or two on a fine-tuned model
    shares: tuple[float, float, float, float] = (0.4, 0.35, 0.1, 0.15)  # one, two, three, hosted
    pictures: int = 256  # a combination; four times as many of one adapter alone
    wordings: int = 3  # of each picture
    seed: int = 3


@dataclass(frozen=True)
class Combination:
    """Experts that are merged and trained together."""

    treatments: tuple[str, ...]
    adapters: tuple[str, ...]  # slugs, one a treatment
    checkpoint: Recipe | None  # the fine-tuned model under them
    share: float  # of the steps


@dataclass(frozen=True)
class JointTrainingData:
    """Training data in windows, one a combination."""

    data: TrainingData
    combinations: tuple[Combination, ...]
    windows: tuple[tuple[int, int], ...]  # first picture, pictures


def learns_together(recipe: Recipe) -> bool:
    """Say whether an expert is one of those that do: a good adapter of one treatment."""
    return recipe.kind == "peft" and recipe.quality == "good" and len(recipe.treatments) == 1


def combinations_of(
    community: Sequence[Recipe], config: CombinationConfig
) -> tuple[Combination, ...]:
    """Return what is trained together: every adapter as often as any other.

    Args:
        community: the experts that were made; the good ones are used.
        config: how many.
    """
    good = [recipe for recipe in community if recipe.quality == "good"]
    by_treatment = {recipe.treatments[0]: recipe.slug for recipe in good if learns_together(recipe)}
    checkpoints = [recipe for recipe in good if recipe.kind == "checkpoint"]
    rng = np.random.default_rng(config.seed)
    allowed = [
        [
            names
            for names in compatible_sets(size)
            if by_treatment.keys() >= set(names) and not is_held_out(names)
        ]
        for size in (1, 2, 3)
    ]
    ones, twos = allowed[0], _evenly(allowed[1], config.pairs, rng)
    threes = _evenly(allowed[2], config.triples, rng)
    with_checkpoint = _evenly([*ones, *allowed[1]], config.hosted if checkpoints else 0, rng)
    kinds = (ones, twos, threes, with_checkpoint)
    due = [share if own else 0.0 for share, own in zip(config.shares, kinds, strict=True)]
    return tuple(
        Combination(
            names,
            tuple(by_treatment[name] for name in names),
            checkpoints[place % len(checkpoints)] if own is with_checkpoint else None,
            share / sum(due) / len(own),
        )
        for own, share in zip(kinds, due, strict=True)
        for place, names in enumerate(own)
    )


def joint_training_data(
    combinations: Sequence[Combination],
    art: Art,
    vae: Any,
    tokenizer: Any,
    config: CombinationConfig,
) -> JointTrainingData:
    """Return every combination's pictures with captions; one without pictures is left out.

    Args:
        combinations: of adapters, from `combinations_of`.
        art: all of it, on the CPU.
        vae: encodes pictures, on the device that trains.
        tokenizer: the base's.
        config: how many pictures.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    copies = (art, shifted(art, generator))
    latents, ids, windows, kept, first = [], [], [], [], 0
    for number, combination in enumerate(combinations):
        groups, styles = (
            (combination.checkpoint.groups, combination.checkpoint.styles)
            if combination.checkpoint
            else ((), ())
        )
        places = art.where(groups or None, styles or None)
        count = config.pictures * (
            4 if len(combination.adapters) == 1 and combination.checkpoint is None else 1
        )
        if not len(places):
            continue
        kept.append(combination)
        places = places[torch.randperm(len(places), generator=generator)[:count]]
        chosen = copies[number % len(copies)].select(places)
        everything = torch.arange(len(chosen))
        latents.append(encode(vae, flatten(chosen, everything, combination.treatments, device)))
        ids.append(
            captioned(
                chosen,
                everything,
                tokenizer,
                combination.treatments,
                SILENT_SHARE if len(combination.adapters) == 1 else 0.0,
                DISTRACTED_SHARE,
                config.seed + number,
                config.wordings,
            )
        )
        windows.append((first, len(chosen)))
        first += len(chosen)
    data = TrainingData(torch.cat(latents), torch.cat(ids), tokenize(tokenizer, [""])[0])
    return JointTrainingData(data, tuple(kept), tuple(windows))


def _evenly(
    options: Sequence[tuple[str, ...]], count: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Return some of the options, each name in about as many of them as any other."""
    used = {name: 0.0 for names in options for name in names}
    left, chosen = list(options), []
    for _ in range(min(count, len(options))):
        uses = [sum(used[name] for name in names) / len(names) + rng.random() for names in left]
        names = left.pop(int(np.argmin(uses)))
        chosen.append(names)
        for name in names:
            used[name] += 1
    return chosen
