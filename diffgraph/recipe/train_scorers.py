"""How do the five scorers learn?

From groups of images of one prompt with their closeness to the truth (scorer_data.py). Every step
draws groups afresh, moves images by a pixel or two, and adds images of other prompts (wrong
subject, wrong treatment) and freshly degraded ones, whose closeness is worked out on the spot. The
five differ in network, loss, seed and in the prompts they see: each leaves out a fifth of them.

    clip_score       contrastive over prompts and within a group
    image_reward     Bradley-Terry over all pairs of a group
    pick_score       the pick among two
    hps              list-wise over a whole group
    aesthetic_score  regression and pairs on cleanness, without the prompt, from clip_score's
    encoder
"""

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from diffgraph.families.emoji64 import EMOJI64
from diffgraph.families.stable_diffusion import StableDiffusion
from diffgraph.recipe.art import Art
from diffgraph.recipe.community import COMMUNITY
from diffgraph.recipe.degrading import degraded
from diffgraph.recipe.drawing import Easel, read_updates
from diffgraph.recipe.loop import LoopConfig, optimise
from diffgraph.recipe.measures import rank_correlation
from diffgraph.recipe.scorer_data import (
    DRAWN,
    KINDS,
    DataConfig,
    ScorerData,
    load_data,
    make_data,
    save_data,
)
from diffgraph.recipe.truth import Truths, as_float, closeness, closeness_to
from diffgraph.scoring import SCORERS
from diffgraph.scoring.learned import CONFIG, LearnedScorer, ScorerConfig, token_ids

log = logging.getLogger(__name__)

SHIFT = 2  # pixels an image may be moved by; its closeness stays what it was
SHARPNESS = 0.02  # the difference of closeness that is preferred with odds of e to 1
SEEN_SHARE = 0.8  # of the prompts, another part for every scorer
SAME_SET, ANY = 1, 1  # strangers a group: of the same treatments, of any prompt
SPOILT = 2  # freshly degraded images a group
SHARES = {"aesthetic_score": 0.5}  # of the time: it begins with a trained encoder
TRANSFORMERS = ("image_reward", "pick_score")  # learn at half the rate
SCALES = {"image_reward": (0.0, 100.0), "hps": (25.0, 5.0), "aesthetic_score": (5.5, 1.5)}
"""Offset and scale of standardised ratings, so that scores look as people expect."""


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorers learn; small numbers make a rehearsal."""

    groups: int = 96
    drawn: int = 8  # images of a group's own, a step
    learning_rate: float = 2e-3
    steps: int | None = None  # instead of seconds
    seed: int = 7


@dataclass(frozen=True)
class Lesson:
    """One step's groups, `g` prompts with `m` images each."""

    images: Tensor  # (g, m, 3, 64, 64), float in [-1, 1]
    ids: Tensor  # (g, tokens)
    closeness: Tensor  # (g, m)
    cleanness: Tensor  # (g, m)
    spread: float  # standard deviation of closeness in the data
    mean: float

    def rate(self, network: nn.Module) -> Tensor:
        """Return the network's ratings of every image for its group's prompt: (g, m)."""
        groups, members = self.images.shape[:2]
        ids = self.ids.unsqueeze(1).expand(-1, members, -1).flatten(0, 1)
        rated: Tensor = network(self.images.flatten(0, 1), ids).float()
        return rated.view(groups, members)


class Teacher:
    """Draws lessons from the data, all of it on the device."""

    def __init__(self, data: ScorerData, tokenizer: Any, name: str, config: ScorerTraining):
        self.data, self.config = data, config
        device = data.images.device
        flat = [wording for own in data.prompts for wording in own]
        self.ids = token_ids(tokenizer, flat).to(device).view(len(data), -1, _tokens(tokenizer))
        chooser = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        seen = torch.randperm(len(data), generator=chooser)[: max(1, round(SEEN_SHARE * len(data)))]
        self.seen = seen.to(device)
        self.spread = float(data.closeness[:, : len(DRAWN)].std())
        self.mean = float(data.closeness[:, : len(DRAWN)].mean())
        self.clean = (
            float(data.cleanness[:, : len(DRAWN)].mean()),
            float(data.cleanness[:, : len(DRAWN)].std()),
        )

    def lesson(self, generator: torch.Generator) -> Lesson:
        """Return a fresh lesson; no branch and no size depends on what is drawn."""
        data, config, device = self.data, self.config, self.data.images.device
        groups = config.groups

        def integers(high: int, *size: int) -> Tensor:
            return torch.randint(high, size, generator=generator, device=device)

        prompt = self.seen[integers(len(self.seen), groups)]
        kind = (
            torch.rand(groups, len(KINDS), generator=generator, device=device)
            .topk(config.drawn)
            .indices
        )
        own = prompt.unsqueeze(1)
        images = [data.images[own, kind]]
        close, clean = [data.closeness[own, kind]], [data.cleanness[own, kind]]

        first = prompt - prompt % data.together
        neighbour = (
            first
            + (prompt - first + 1 + integers(max(1, data.together - 1), groups)) % data.together
        )
        neighbour = neighbour.clamp(max=len(data) - 1)
        strangers = torch.stack(
            [neighbour] * SAME_SET + [self.seen[integers(len(self.seen), groups)]] * ANY, 1
        )
        which = integers(len(KINDS), *strangers.shape)
        truths = data.truths.take(prompt)
        foreign = data.images[strangers, which]
        images.append(foreign)
        clean.append(data.cleanness[strangers, which])
        close.append(_closeness_of_all(foreign, truths))

        source = kind[:, :SPOILT]
        before = data.images[own, source]
        after = degraded(before.flatten(0, 1), generator).view_as(before)
        images.append(after)
        close.append(_closeness_of_all(after, truths))
        lost = 1 - closeness(after.flatten(0, 1), before.flatten(0, 1)).view(source.shape)
        clean.append(data.cleanness[own, source] - lost)

        wording = integers(self.ids.shape[1], groups)
        together = as_float(torch.cat(images, 1)) * 2 - 1
        return Lesson(
            moved(together.flatten(0, 1), generator).view_as(together),
            self.ids[prompt, wording],
            torch.cat(close, 1),
            torch.cat(clean, 1),
            self.spread,
            self.mean,
        )


def make_scorers(  # noqa: PLR0913 (a stage's paths and configs)
    art: Art,
    base: Path,
    weights: Path,
    out: Path,
    device: str = "cuda",
    seconds_each: float = 60.0,
    data: DataConfig | None = None,
    config: ScorerTraining | None = None,
) -> dict[str, dict[str, Any]]:
    """Draw the data with the real base and experts and train all five scorers; resumable.

    Args:
        art: all of it.
        base: the base model's folder, in the diffusers layout.
        weights: the folder of `<slug>.safetensors`; experts that are not there are left out.
        out: `scorers/<name>/` and the drawn data (`scorer_data/`, only for resuming) appear below
            it.
        device: `cuda` or `cpu`.
        seconds_each: how long each scorer learns.
        data: how much is drawn.
        config: how is learnt.
    """
    folder = out / "scorers"
    data = data or DataConfig()
    torch.set_float32_matmul_precision("high")
    model = StableDiffusion.from_folder("emoji64", base, EMOJI64.sampler, device)
    kept = {split: out / "scorer_data" / f"{split}.safetensors" for split in ("training", "test")}
    if not all(path.is_file() for path in kept.values()):
        paths = {recipe.slug: weights / f"{recipe.slug}.safetensors" for recipe in COMMUNITY}
        here = {slug: path for slug, path in paths.items() if path.is_file()}
        easel = Easel(model, read_updates(here, model), data.prompts)
        placed = Art(art.images.to(device), art.subject, art.style, art.subjects)
        for split, path in kept.items():
            save_data(make_data(easel, placed, data, split == "test"), path)
    training, test = (load_data(path, device) for path in kept.values())
    return train_scorers(training, test, model.tokenizer, folder, seconds_each, config)


def train_scorers(
    data: ScorerData,
    test: ScorerData,
    tokenizer: Any,
    out: Path,
    seconds_each: float = 60.0,
    config: ScorerTraining | None = None,
) -> dict[str, dict[str, Any]]:
    """Train the five scorers, or find them made; return what each one's test said.

    Args:
        data: what is learnt from, on the device that trains.
        test: of held-out compositions, on the same device.
        tokenizer: the family's.
        out: `<name>/` appears below it for each scorer.
        seconds_each: how long each one learns, unless the config says how many steps.
        config: how.
    """
    config = config or ScorerTraining()
    found: dict[str, dict[str, Any]] = {}
    for name in ("clip_score", "aesthetic_score", "image_reward", "pick_score", "hps"):
        if not (out / name / CONFIG).is_file():
            scorer = train_scorer(name, data, tokenizer, out, seconds_each, config)
            tested = measure(scorer, test)
            training = {**scorer.config.training, "test": tested}
            scorer.config = scorer.config.model_copy(update={"training": training})
            scorer.save(out / name)
        kept = ScorerConfig.model_validate_json((out / name / CONFIG).read_text(encoding="utf-8"))
        found[name] = kept.training
        log.info("%s: %s", name, kept.training.get("test"))
    return found


def train_scorer(
    name: str, data: ScorerData, tokenizer: Any, out: Path, seconds: float, config: ScorerTraining
) -> LearnedScorer:
    """Train one scorer and set its offset and scale."""
    device = data.images.device
    scorer = SCORERS[name].untrained(tokenizer, seed=config.seed)
    network = scorer.network.to(device).train().requires_grad_(True)
    if name == "aesthetic_score":
        _begin_with_encoder(
            network, SCORERS["clip_score"].load(out / "clip_score", tokenizer).network
        )
    teacher = Teacher(data, tokenizer, name, config)
    loss_of = LOSSES[name]

    def draw_loss(generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            lesson = teacher.lesson(generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return loss_of(lesson, network, teacher)

    loop = LoopConfig(
        steps=config.steps,
        seconds=seconds * SHARES.get(name, 1.0),
        learning_rate=config.learning_rate * (0.5 if name in TRANSFORMERS else 1.0),
        weight_decay=2e-2,
        seed=zlib.crc32(name.encode()) % 10_000,
    )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    report = optimise(draw_loss, parameters, loop, name)
    offset, scale = _units(name, network)
    training = {
        **report.describe(loop),
        "groups": config.groups,
        "images_a_group": config.drawn + SAME_SET + ANY + SPOILT,
        "prompts": len(teacher.seen),
        "parameters": sum(value.numel() for value in network.parameters()),
    }
    settings = scorer.config.model_copy(
        update={"offset": offset, "scale": scale, "training": training}
    )
    return SCORERS[name](network, settings, tokenizer, device)


def measure(scorer: LearnedScorer, test: ScorerData) -> dict[str, float]:
    """Return rank correlations with closeness on images that models drew, and pair preferences."""
    scores = score_groups(scorer, test)
    merged, close = scores[:, : len(DRAWN)], test.closeness[:, : len(DRAWN)].cpu()
    right, wrong, base, spoilt = (
        scores[:, KINDS.index(kind)] for kind in ("right 1.0", "wrong", "base", "degraded right")
    )
    sampled = slice(None, None, max(1, merged.numel() // 3000))
    return {
        "within_prompt": round(float(rank_correlation(merged, close).mean()), 4),
        "pooled": round(
            float(rank_correlation(merged.flatten()[sampled], close.flatten()[sampled])), 4
        ),
        "right_over_wrong": round(float((right > wrong).double().mean()), 4),
        "right_over_base": round(float((right > base).double().mean()), 4),
        "right_over_degraded": round(float((right > spoilt).double().mean()), 4),
    }


def score_groups(scorer: LearnedScorer, data: ScorerData) -> Tensor:
    """Return the score of every image of every group: (prompts, kinds), on the CPU."""
    prompts = [own[0] for own in data.prompts for _ in KINDS]
    return scorer(as_float(data.images.flatten(0, 1)), prompts).view(len(data), len(KINDS))


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, 3, h, w) moved by up to `SHIFT` pixels each way, edges repeated."""
    count, _, height, width = images.shape

    def indices(length: int) -> Tensor:
        shift = torch.randint(
            -SHIFT, SHIFT + 1, (count, 1), generator=generator, device=images.device
        )
        return (torch.arange(length, device=images.device) + shift).clamp(0, length - 1)

    rows, columns = indices(height), indices(width)
    which = torch.arange(count, device=images.device)
    channels_last = images.permute(0, 2, 3, 1)[
        which[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return channels_last.permute(0, 3, 1, 2)


def preference_loss(rating: Tensor, close: Tensor, per_unit: float) -> Tensor:
    """Return the Bradley-Terry loss over all pairs of a group (https://doi.org/10.2307/2334029).

    Args:
        rating: (g, m).
        close: (g, m), what the ratings should be ordered by.
        per_unit: logits a unit of rating.
    """
    wanted = ((close.unsqueeze(2) - close.unsqueeze(1)) / SHARPNESS).sigmoid()
    logits = (rating.unsqueeze(2) - rating.unsqueeze(1)) * per_unit
    return F.binary_cross_entropy_with_logits(logits, wanted)


def pick_loss(rating: Tensor, close: Tensor) -> Tensor:
    """Return the loss of predicting which of two images is picked, ties counting little."""
    ahead = close.unsqueeze(2) - close.unsqueeze(1)
    logits = rating.unsqueeze(2) - rating.unsqueeze(1)
    weight = (ahead.abs() / SHARPNESS).tanh()
    each = F.binary_cross_entropy_with_logits(
        logits, (ahead > 0).to(logits.dtype), reduction="none"
    )
    return (each * weight).sum() / (weight.sum() + 1e-6)


def listwise_loss(rating: Tensor, close: Tensor, per_unit: float) -> Tensor:
    """Return the cross-entropy of two softmaxes over a group (ListNet, Cao et al. 2007)."""
    wanted = (close / (2 * SHARPNESS)).softmax(1)
    return -(wanted * (rating * per_unit / 2).log_softmax(1)).sum(1).mean()


def agreement_loss(rating: Tensor, close: Tensor) -> Tensor:
    """Return 1 minus the correlation over all groups: scores shall compare across prompts."""
    left, right = rating.flatten() - rating.mean(), close.flatten() - close.mean()
    size = (left.square().sum() * right.square().sum() + 1e-8).sqrt()
    return 1 - (left * right).sum() / size


def _contrast(lesson: Lesson, network: Any, teacher: Teacher) -> Tensor:
    groups, members = lesson.closeness.shape
    seen = network.see(lesson.images.flatten(0, 1)).view(groups, members, -1)
    read = network.read(lesson.ids)
    warmth = network.log_temperature.exp().clamp(max=60)
    best = seen[torch.arange(groups, device=read.device), lesson.closeness.argmax(1)]
    logits = warmth * best @ read.T
    target = torch.arange(groups, device=read.device)
    across = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    cosine = (seen * read.unsqueeze(1)).sum(-1)
    within = preference_loss(cosine * warmth, lesson.closeness, 1.0)
    return (
        0.3 * across
        + within
        + 0.5 * agreement_loss(cosine, lesson.closeness)
        + _not_negative(cosine)
    )


def _not_negative(cosine: Tensor) -> Tensor:
    """A cosine below zero scores zero, as Hessel's does: it would hide which image is worse."""
    return F.relu(0.05 - cosine).mean()


def _pairs(lesson: Lesson, network: nn.Module, teacher: Teacher) -> Tensor:
    rating = lesson.rate(network)
    ordered = preference_loss(rating, lesson.closeness, lesson.spread / SHARPNESS)
    return ordered + 0.25 * _anchor(rating, lesson.closeness, lesson.mean, lesson.spread)


def _picks(lesson: Lesson, network: nn.Module, teacher: Teacher) -> Tensor:
    rating = lesson.rate(network)
    return pick_loss(rating, lesson.closeness) + 0.5 * agreement_loss(rating, lesson.closeness)


def _lists(lesson: Lesson, network: nn.Module, teacher: Teacher) -> Tensor:
    rating = lesson.rate(network)
    ordered = listwise_loss(rating, lesson.closeness, lesson.spread / SHARPNESS)
    return ordered + 0.25 * _anchor(rating, lesson.closeness, lesson.mean, lesson.spread)


def _cleanness(lesson: Lesson, network: nn.Module, teacher: Teacher) -> Tensor:
    rating = lesson.rate(network)
    mean, spread = teacher.clean
    ordered = preference_loss(rating, lesson.cleanness, spread / SHARPNESS)
    return 0.5 * ordered + _anchor(rating, lesson.cleanness, mean, spread)


def _anchor(rating: Tensor, close: Tensor, mean: float, spread: float) -> Tensor:
    """Hold ratings to standardised closeness, so that they compare across prompts."""
    return F.smooth_l1_loss(rating, ((close - mean) / spread).clamp(-4, 4))


LOSSES: Mapping[str, Callable[[Lesson, Any, Teacher], Tensor]] = {
    "clip_score": _contrast, "image_reward": _pairs, "pick_score": _picks, "hps": _lists,
    "aesthetic_score": _cleanness,
}  # fmt: skip


def _closeness_of_all(images: Tensor, truths: Truths) -> Tensor:
    """Return the closeness of (g, m) images to their group's truth."""
    return torch.stack(
        [closeness_to(images[:, place], truths) for place in range(images.shape[1])], 1
    )


def _begin_with_encoder(network: Any, encoder: Any) -> None:
    network.trunk.load_state_dict(encoder.trunk.state_dict())
    network.summary.load_state_dict(encoder.summary.state_dict())


def _units(name: str, network: Any) -> tuple[float, float]:
    """Return the offset and the scale from ratings to scores."""
    if name == "clip_score":
        return 0.0, 250.0
    return SCALES.get(name, (0.0, 1.0))


def _tokens(tokenizer: Any) -> int:
    return int(token_ids(tokenizer, [""]).shape[1])
