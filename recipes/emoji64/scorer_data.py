"""What do the scorers learn from? Groups of images of one prompt, ranked by closeness to the truth.

A set of treatments is drawn with the right experts at many strengths, with some of them only, with
wrong ones, with checkpoints, with any experts at all; beside these stand the true composition,
compositions that lack or add a treatment, and degraded images. Prompts are organised by set, so
that one write of the weights serves a whole batch. Every image keeps the name of what it is
(`KINDS`): proofs count by it.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.artifacts import new_file, write_text
from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES, Art
from recipes.emoji64.community import COMMUNITY, Recipe
from recipes.emoji64.degrading import degraded
from recipes.emoji64.freeform import SUBJECTS
from recipes.emoji64.image_sampler import ImageSampler
from recipes.emoji64.scorer_cleanness import IntendedImages
from recipes.emoji64.scorer_costs import Costs
from recipes.emoji64.scorer_plans import (
    DRAWN,
    asked_by_bench,
    covered,
    plans_of,
    treatment_sets,
)
from recipes.emoji64.truth import (
    Composition,
    Truths,
    closeness_to,
    composed,
    true_images,
)

log = logging.getLogger(__name__)

MADE = ("truth", "lacking", "extra", "degraded truth", "degraded right")
"""Images that no model drew."""
KINDS = (*DRAWN, *MADE)

WORDINGS = 4  # captions a composition
PLAIN_WORDINGS = 3  # of them as the base learnt captions; images are drawn from the first
OPENINGS = ("please draw ", "i would love ", "can you make ", "show me ", "i want ", "give me ")
ENDINGS = ("", " please", " for me", ", thanks", " for a poster", " for my logo")
STYLED_SHARE = 0.6  # of prompts that name a style
CURATED_SHARE = 0.6  # of compositions show a subject that the prompt sets ask for too

Plan = Mapping[str, float]


@dataclass(frozen=True)
class DataConfig:
    """How much is drawn."""

    sets: int = 480  # of all parts together; pairs that were seen are what new pairs are judged by
    test_sets: int = 16
    prompts: int = 40  # a set: drawn together with one write of the weights
    parts: int = 8  # of the training data: several GPUs may draw some each
    seed: int = 0


@dataclass(frozen=True)
class ScorerData:
    """Groups of images, one a prompt, all of them on one device."""

    compositions: tuple[Composition, ...]
    prompts: tuple[tuple[str, ...], ...]  # `WORDINGS` each; images were drawn from the first
    truths: Truths
    images: Tensor  # (prompts, kinds, 3, 64, 64), uint8
    closeness: Tensor  # (prompts, kinds): to the prompt's truth
    cleanness: Tensor  # (prompts, kinds): to the nearest meaning (scorer_cleanness.py)
    together: int  # prompts that share their treatments, one after the other

    def to(self, device: torch.device | str) -> "ScorerData":
        """Return the same on a device."""
        return ScorerData(
            self.compositions,
            self.prompts,
            self.truths.to(device),
            self.images.to(device),
            self.closeness.to(device),
            self.cleanness.to(device),
            self.together,
        )

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.compositions)


def save_data(data: ScorerData, path: Path) -> None:
    """Write the data to one safetensors file; it never leaves the machine that trains."""
    story = {
        "compositions": [(own.subject, own.style, own.treatments) for own in data.compositions],
        "prompts": data.prompts,
        "together": data.together,
    }
    tensors = {
        "truths": data.truths.images,
        "allowed": data.truths.allowed,
        "images": data.images,
        "closeness": data.closeness,
        "cleanness": data.cleanness,
    }
    # first: whatever has images has its story, even if this process is killed
    write_text(path.with_suffix(".json"), json.dumps(story))
    with new_file(path) as part:
        save_file({name: own.contiguous() for name, own in tensors.items()}, part)


def load_data(path: Path, device: torch.device | str = "cpu") -> ScorerData:
    """Read what `save_data` wrote."""
    kept = load_file(path, device=str(device))
    story = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return ScorerData(
        tuple(Composition(own[0], own[1], tuple(own[2])) for own in story["compositions"]),
        tuple(tuple(own) for own in story["prompts"]),
        Truths(kept["truths"], kept["allowed"]),
        kept["images"],
        kept["closeness"],
        kept["cleanness"],
        story["together"],
    )


def make_data(
    sampler: ImageSampler,
    art: Art,
    config: DataConfig,
    held_out: bool = False,
    part: int = 0,
) -> ScorerData:
    """Draw the groups of images.

    Args:
        sampler: the base with the community's updates; its batch is `config.prompts`.
        art: on the sampler's device.
        config: how much is drawn.
        held_out: draw the test's pairs of treatments instead of the training's sets.
        part: which part of the training's sets.
    """
    started = time.perf_counter()
    rng = np.random.default_rng([config.seed, held_out, part])
    device = sampler.model.device
    generator = torch.Generator(device).manual_seed(config.seed + held_out + 10 * part)
    community = [recipe for recipe in COMMUNITY if recipe.slug in sampler.updates]
    count = config.test_sets if held_out else -(-config.sets // config.parts)
    sets = treatment_sets(count, held_out, rng, covered(community))
    plain = draw_compositions(art, (), config.prompts, np.random.default_rng([config.seed, 2]))
    costs = Costs(sampler, art, community, plain, config.seed)
    made = [
        _make_set(sampler, art, community, names, costs, config.prompts, rng, generator)
        for names in sets
    ]
    sampler.write({})
    data = joined(made)
    log.info(
        "%s data: %d prompts, %d images in %.0f s",
        "test" if held_out else "training",
        len(data),
        len(data) * len(KINDS),
        time.perf_counter() - started,
    )
    return data


def joined(parts: Sequence[ScorerData]) -> ScorerData:
    """Return several parts as one."""
    return ScorerData(
        tuple(composition for part in parts for composition in part.compositions),
        tuple(wordings for part in parts for wordings in part.prompts),
        Truths(
            torch.cat([part.truths.images for part in parts]),
            torch.cat([part.truths.allowed for part in parts]),
        ),
        torch.cat([part.images for part in parts]),
        torch.cat([part.closeness for part in parts]),
        torch.cat([part.cleanness for part in parts]),
        parts[0].together,
    )


def _make_set(  # noqa: PLR0913 (all that a set is drawn with)
    sampler: ImageSampler,
    art: Art,
    community: Sequence[Recipe],
    treatments: tuple[str, ...],
    costs: Costs,
    count: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> ScorerData:
    """Draw one set's prompts with every kind of plan."""
    compositions = draw_compositions(art, treatments, count, rng)
    prompts = tuple(wordings(art, composition, rng) for composition in compositions)
    truths = true_images(art, compositions)
    meant = IntendedImages(art, compositions, costs.of)
    drawn, close, clean = [], [], []
    context = sampler.context([own[0] for own in prompts])
    for kind, (plan, effects) in zip(DRAWN, plans_of(treatments, rng, community), strict=True):
        sampler.write(plan)
        states = sampler.context([own[0] for own in prompts]) if sampler.reads_text else context
        images = sampler.draw_from(states, sampler.noise(count, generator))
        intended = {(), treatments, tuple(sorted(effects))} if kind != "base" else {(), treatments}
        drawn.append(images)
        close.append(closeness_to(images, truths))
        clean.append(meant.cleanness(images, intended))
    for kind, images in _made(art, compositions, drawn, rng, generator).items():
        drawn.append(images)
        close.append(closeness_to(images, truths))
        own = meant.cleanness(images, {(), treatments})
        if kind in {"lacking", "extra"}:
            own = torch.ones_like(own)  # not asked for, but nothing is wrong with it
        clean.append(own)
    return ScorerData(
        tuple(compositions),
        prompts,
        truths,
        torch.stack(drawn, 1),
        torch.stack(close, 1),
        torch.stack(clean, 1),
        count,
    )


def draw_compositions(
    art: Art, treatments: tuple[str, ...], count: int, rng: np.random.Generator
) -> list[Composition]:
    """Return compositions with these treatments that the bench does not ask for."""
    names = {name.strip() for group in SUBJECTS.values() for name in group.split(",")}
    subject, style = art.subject.tolist(), art.style.tolist()
    curated = [place for place, own in enumerate(subject) if art.subjects[own].name in names]
    asked = asked_by_bench()
    chosen: list[Composition] = []
    while len(chosen) < count:
        pool: Sequence[int] = range(len(art))
        if curated and rng.random() < CURATED_SHARE:
            pool = curated
        place = pool[int(rng.integers(len(pool)))]
        named = STYLES[style[place]] if rng.random() < STYLED_SHARE else None
        if (art.subjects[subject[place]].name, tuple(sorted(treatments))) not in asked:
            chosen.append(Composition(subject[place], named, treatments))
    return chosen


def wordings(art: Art, composition: Composition, rng: np.random.Generator) -> tuple[str, ...]:
    """Return several captions of a composition, the later ones as people would ask for it."""
    subject = art.subjects[composition.subject]
    texts = [
        captions.caption(subject, composition.style, list(composition.treatments), rng)
        for _ in range(WORDINGS)
    ]
    asked = [
        f"{OPENINGS[rng.integers(len(OPENINGS))]}{text}{ENDINGS[rng.integers(len(ENDINGS))]}"
        for text in texts[PLAIN_WORDINGS:]
    ]
    return (*texts[:PLAIN_WORDINGS], *asked)


def _made(
    art: Art,
    compositions: Sequence[Composition],
    drawn: Sequence[Tensor],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the images of `MADE`."""
    where = {
        pair: place
        for place, pair in enumerate(zip(art.subject.tolist(), art.style.tolist(), strict=True))
    }
    places = torch.tensor(
        [_a_place(where, composition, rng) for composition in compositions],
        device=art.images.device,
    )
    treatments = compositions[0].treatments
    known = sorted(covered() - set(treatments))
    stranger = known[int(rng.integers(len(known)))]
    fewer = list(treatments)
    if fewer:
        fewer.pop(int(rng.integers(len(fewer))))
    swapped = [*fewer, stranger] if rng.random() < 0.5 else [*treatments, stranger]
    truth = composed(art, places, treatments)
    right = drawn[DRAWN.index("right 1.0")]
    return {
        "truth": truth,
        "lacking": composed(art, places, fewer if treatments else [stranger]),
        "extra": composed(art, places, swapped),
        "degraded truth": degraded(truth, generator),
        "degraded right": degraded(right, generator),
    }


def _a_place(
    where: Mapping[tuple[int, int], int], composition: Composition, rng: np.random.Generator
) -> int:
    styles = (
        [STYLES.index(composition.style)]
        if composition.style
        else rng.permutation(len(STYLES)).tolist()
    )
    return next(
        where[composition.subject, style]
        for style in styles
        if (composition.subject, style) in where
    )
