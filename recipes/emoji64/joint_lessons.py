"""Who draws a picture together, and what does it show then?

A cast is some good adapters, at times with a fine-tuned model under them. Its pictures show what
all of them stand for. Pairs of treatments that the bench asks for are never cast: how well
strangers go together is what it measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.emoji64.art import Art
from recipes.emoji64.autoencoder import encode
from recipes.emoji64.community import Recipe
from recipes.emoji64.denoiser import Lessons
from recipes.emoji64.lessons import SILENT_SHARE, captioned, flatten, shifted, tokenize
from recipes.emoji64.scorer_plans import is_held_out
from recipes.emoji64.treatments import compatible_sets

DISTRACTED_SHARE = 0.1  # of captions name a treatment that cannot be seen


@dataclass(frozen=True)
class CastConfig:
    """How many casts there are, how often each kind is due, and what they are shown."""

    pairs: int = 400  # at most; the community has fewer
    triples: int = 240
    hosted: int = 200  # casts of one or two on a fine-tuned model
    shares: tuple[float, float, float, float] = (0.4, 0.35, 0.1, 0.15)  # one, two, three, hosted
    pictures: int = 256  # a cast; four times as many of one adapter alone
    wordings: int = 3  # of each picture
    seed: int = 3


@dataclass(frozen=True)
class Cast:
    """Experts that draw together."""

    treatments: tuple[str, ...]
    adapters: tuple[str, ...]  # slugs, one a treatment
    host: Recipe | None  # the fine-tuned model under them
    share: float  # of the steps


@dataclass(frozen=True)
class JointLessons:
    """Lessons in windows, one a cast."""

    lessons: Lessons
    casts: tuple[Cast, ...]
    windows: tuple[tuple[int, int], ...]  # first picture, pictures


def learns_together(recipe: Recipe) -> bool:
    """Say whether an expert is one of those that do: a good adapter of one treatment."""
    return recipe.kind == "peft" and recipe.quality == "good" and len(recipe.treatments) == 1


def casts_of(community: Sequence[Recipe], config: CastConfig) -> tuple[Cast, ...]:
    """Return who is cast together: every adapter as often as any other.

    Args:
        community: the experts that were made; the good ones are cast.
        config: how many.
    """
    good = [recipe for recipe in community if recipe.quality == "good"]
    by_treatment = {recipe.treatments[0]: recipe.slug for recipe in good if learns_together(recipe)}
    hosts = [recipe for recipe in good if recipe.kind == "checkpoint"]
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
    guests = _evenly([*ones, *allowed[1]], config.hosted if hosts else 0, rng)
    kinds = (ones, twos, threes, guests)
    due = [share if own else 0.0 for share, own in zip(config.shares, kinds, strict=True)]
    return tuple(
        Cast(
            names,
            tuple(by_treatment[name] for name in names),
            hosts[place % len(hosts)] if own is guests else None,
            share / sum(due) / len(own),
        )
        for own, share in zip(kinds, due, strict=True)
        for place, names in enumerate(own)
    )


def joint_lessons(
    casts: Sequence[Cast], art: Art, vae: Any, tokenizer: Any, config: CastConfig
) -> JointLessons:
    """Return the pictures of every cast, with captions; a cast without any is left out.

    Args:
        casts: who draws together.
        art: all of it, on the CPU.
        vae: encodes pictures, on the device that trains.
        tokenizer: the base's.
        config: how many pictures.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    copies = (art, shifted(art, generator))
    latents, ids, windows, kept, first = [], [], [], [], 0
    for number, cast in enumerate(casts):
        groups, styles = (cast.host.groups, cast.host.styles) if cast.host else ((), ())
        places = art.where(groups or None, styles or None)
        count = config.pictures * (4 if len(cast.adapters) == 1 and cast.host is None else 1)
        if not len(places):
            continue
        kept.append(cast)
        places = places[torch.randperm(len(places), generator=generator)[:count]]
        chosen = copies[number % len(copies)].select(places)
        everything = torch.arange(len(chosen))
        latents.append(encode(vae, flatten(chosen, everything, cast.treatments, device)))
        ids.append(
            captioned(
                chosen,
                everything,
                tokenizer,
                cast.treatments,
                SILENT_SHARE if len(cast.adapters) == 1 else 0.0,
                DISTRACTED_SHARE,
                config.seed + number,
                config.wordings,
            )
        )
        windows.append((first, len(chosen)))
        first += len(chosen)
    lessons = Lessons(torch.cat(latents), torch.cat(ids), tokenize(tokenizer, [""])[0])
    return JointLessons(lessons, tuple(kept), tuple(windows))


def _evenly(
    options: Sequence[tuple[str, ...]], count: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Return some of the options, each name in about as many of them as any other."""
    used = {name: 0.0 for names in options for name in names}
    left, chosen = list(options), []
    for _ in range(min(count, len(options))):
        tired = [sum(used[name] for name in names) / len(names) + rng.random() for names in left]
        names = left.pop(int(np.argmin(tired)))
        chosen.append(names)
        for name in names:
            used[name] += 1
    return chosen
