"""What does each scorer minimise?

clip_score       contrastive over prompts and within a group
image_reward     Bradley-Terry over all pairs of a group
pick_score       the pick among two
hps              list-wise over a whole group
aesthetic_score  regression and pairs on cleanness, without the prompt

Those that read the prompt are asked once more about the hard pairs, lost among the many easy ones:
the same merge for another subject, and the same image spoilt.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from recipes.emoji64.scorer_batches import BatchSource, ScorerBatch

MATCHED = 0.7  # weight of the hard pairs
SHARPNESS = 0.02  # the difference of closeness that is preferred with odds of e to 1


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


def matched_loss(rating: Tensor, batch: ScorerBatch, per_unit: float) -> Tensor:
    """Return the Bradley-Terry loss over the pairs that differ in one thing only.

    Args:
        rating: (g, m).
        batch: what was rated.
        per_unit: logits a unit of rating.
    """
    near, far = batch.pairs(batch.closeness)
    ahead, behind = batch.pairs(rating)
    wanted = ((near - far) / SHARPNESS).sigmoid()
    return F.binary_cross_entropy_with_logits((ahead - behind) * per_unit, wanted)


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


def _contrast(batch: ScorerBatch, network: Any, source: BatchSource) -> Tensor:
    groups, members = batch.closeness.shape
    seen = network.see(batch.images.flatten(0, 1)).view(groups, members, -1)
    read = network.read(batch.ids)
    warmth = network.log_temperature.exp().clamp(max=60)
    best = seen[torch.arange(groups, device=read.device), batch.closeness.argmax(1)]
    logits = warmth * best @ read.T
    target = torch.arange(groups, device=read.device)
    across = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    cosine = (seen * read.unsqueeze(1)).sum(-1)
    within = preference_loss(cosine * warmth, batch.closeness, 1.0)
    return (
        0.3 * across
        + within
        + MATCHED * matched_loss(cosine * warmth, batch, 1.0)
        + 0.5 * agreement_loss(cosine, batch.closeness)
        + _not_negative(cosine)
    )


def _not_negative(cosine: Tensor) -> Tensor:
    """A cosine below zero scores zero, as Hessel's does: it would hide which image is worse."""
    return F.relu(0.05 - cosine).mean()


def _pairs(batch: ScorerBatch, network: nn.Module, source: BatchSource) -> Tensor:
    rating = batch.rate(network)
    per_unit = batch.spread / SHARPNESS
    ordered = preference_loss(rating, batch.closeness, per_unit)
    ordered = ordered + MATCHED * matched_loss(rating, batch, per_unit)
    return ordered + 0.25 * _anchor(rating, batch.closeness, batch.mean, batch.spread)


def _picks(batch: ScorerBatch, network: nn.Module, source: BatchSource) -> Tensor:
    rating = batch.rate(network)
    picked = pick_loss(rating, batch.closeness) + MATCHED * matched_loss(rating, batch, 1.0)
    return picked + 0.5 * agreement_loss(rating, batch.closeness)


def _lists(batch: ScorerBatch, network: nn.Module, source: BatchSource) -> Tensor:
    rating = batch.rate(network)
    per_unit = batch.spread / SHARPNESS
    ordered = listwise_loss(rating, batch.closeness, per_unit)
    ordered = ordered + MATCHED * matched_loss(rating, batch, per_unit)
    return ordered + 0.25 * _anchor(rating, batch.closeness, batch.mean, batch.spread)


def _cleanness(batch: ScorerBatch, network: nn.Module, source: BatchSource) -> Tensor:
    rating = batch.rate(network)
    mean, spread = source.clean
    ordered = preference_loss(rating, batch.cleanness, spread / SHARPNESS)
    return 0.5 * ordered + _anchor(rating, batch.cleanness, mean, spread)


def _anchor(rating: Tensor, close: Tensor, mean: float, spread: float) -> Tensor:
    """Hold ratings to standardised closeness, so that they compare across prompts."""
    return F.smooth_l1_loss(rating, ((close - mean) / spread).clamp(-4, 4))


LOSSES: Mapping[str, Callable[[ScorerBatch, Any, BatchSource], Tensor]] = {
    "clip_score": _contrast, "image_reward": _pairs, "pick_score": _picks, "hps": _lists,
    "aesthetic_score": _cleanness,
}  # fmt: skip
