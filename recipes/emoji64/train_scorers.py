"""How do the five scorers learn?

Every step draws a batch from data and bank (scorer_batches.py), and each scorer minimises a loss of
its own (scorer_losses.py). The five differ in network, loss, seed and in the prompts they see: each
leaves out a fifth of them. The others begin with what the contrastive one knows.
"""

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.families.emoji64.scorers import SCORERS
from diffgraph.families.emoji64.scorers.learned import CONFIG, LearnedScorer, ScorerConfig
from recipes.emoji64.art import Art
from recipes.emoji64.loop import LoopConfig, optimise
from recipes.emoji64.measures import rank_correlation
from recipes.emoji64.scorer_bank import Bank, compose_bank
from recipes.emoji64.scorer_batches import BatchSource, ScorerTraining
from recipes.emoji64.scorer_data import KINDS, ScorerData
from recipes.emoji64.scorer_files import untrained, write_scorer
from recipes.emoji64.scorer_losses import LOSSES
from recipes.emoji64.scorer_plans import DRAWN
from recipes.emoji64.truth import as_float

log = logging.getLogger(__name__)

ORDER = ("clip_score", "aesthetic_score", "image_reward", "pick_score", "hps")
"""The first is what the others begin with."""
TRANSFORMERS = ("image_reward", "pick_score")  # learn at half the rate
SCALES = {"image_reward": (0.0, 100.0), "hps": (25.0, 5.0), "aesthetic_score": (5.5, 1.5)}
"""Offset and scale of standardised ratings, so that scores look as people expect."""


def train_scorers(  # noqa: PLR0913 (what is learnt from, where to, and how)
    data: ScorerData,
    test: ScorerData,
    art: Art,
    tokenizer: Any,
    out: Path,
    seconds_each: float = 60.0,
    config: ScorerTraining | None = None,
    only: Sequence[str] = ORDER,
) -> dict[str, dict[str, Any]]:
    """Train scorers, or find them made; return what each one's test said.

    Args:
        data: what is learnt from, on the device that trains.
        test: of held-out compositions, on the same device.
        art: on the same device; the bank is composed from it.
        tokenizer: the family's.
        out: `<name>/` appears below it for each scorer.
        seconds_each: how long each one learns, unless the config says how many steps.
        config: how.
        only: which ones.
    """
    config = config or ScorerTraining()
    bank = compose_bank(art, tokenizer, config.bank)
    found: dict[str, dict[str, Any]] = {}
    for name in only:
        if not (out / name / CONFIG).is_file():
            scorer = train_scorer(name, data, bank, tokenizer, out, seconds_each, config)
            write_scorer(scorer, out / name)
            tested = measure(SCORERS[name].load(out / name, tokenizer, data.images.device), test)
            training = {**scorer.config.training, "test": tested}
            scorer.config = scorer.config.model_copy(update={"training": training})
            write_scorer(scorer, out / name)
        kept = ScorerConfig.model_validate_json((out / name / CONFIG).read_text(encoding="utf-8"))
        found[name] = kept.training
        log.info("%s: %s", name, kept.training.get("test"))
    return found


def train_scorer(
    name: str,
    data: ScorerData,
    bank: Bank,
    tokenizer: Any,
    out: Path,
    seconds: float,
    config: ScorerTraining,
) -> LearnedScorer:
    """Train one scorer and set its offset and scale."""
    device = data.images.device
    scorer = untrained(SCORERS[name], tokenizer, config.seed)
    network = scorer.network.to(device).train().requires_grad_(True)
    if name != "clip_score" and (out / "clip_score" / CONFIG).is_file():
        _begin_with(network, SCORERS["clip_score"].load(out / "clip_score", tokenizer).network)
    source = BatchSource(data, bank, tokenizer, name, config)
    loss_of = LOSSES[name]

    def draw_loss(generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            batch = source.batch(generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return loss_of(batch, network, source)

    loop = LoopConfig(
        steps=config.steps,
        seconds=seconds,
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
        "composed_groups": config.composed,
        "images_a_group": source.members,
        "prompts": len(source.seen),
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


STAGES_OF_HPS = ("fine.0", "fine.1", "middle", "down", "high")
"""Where the modulated network has the stages of a convolutional trunk."""


def _begin_with(network: Any, encoder: Any) -> None:
    """Begin with what the contrastive pair knows of pictures and words, where the parts are alike.

    As PickScore and HPS begin with CLIP, ImageReward with BLIP and the aesthetic predictor with
    CLIP's image encoder.
    """
    known = encoder.state_dict()
    for name, value in list(known.items()):
        part, _, rest = name.partition(".")
        if part == "text":
            known[f"read.{rest}"] = value
            known[rest] = value
        if name.startswith("trunk.stages."):
            place, _, rest = rest.removeprefix("stages.").partition(".")
            known[f"{STAGES_OF_HPS[int(place)]}.{rest}"] = value
    own = network.state_dict()
    alike = {
        name: known[name]
        for name, value in own.items()
        if name in known and known[name].shape == value.shape and not name.startswith("head")
    }
    network.load_state_dict({**own, **alike})


def _units(name: str, network: Any) -> tuple[float, float]:
    """Return the offset and the scale from ratings to scores."""
    if name == "clip_score":
        return 0.0, 250.0
    return SCALES.get(name, (0.0, 1.0))
