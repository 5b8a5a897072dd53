"""How do several scores become one number?

Each is brought to mean 0 and standard deviation 1 on the calibration table, so that none outweighs
another by its units, and their weighted mean is the reward.
"""

import math

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor

from diffgraph.errors import InputError

SCORE_NAMES = ("clip_score", "image_reward", "aesthetic_score", "pick_score", "hps")
"""The paper's five (section 3.1), in their order: what a graph or planner holds that names none."""
SMALLEST_SPREAD = 1e-6  # a score that never varied says nothing, rather than infinity


class Reward(BaseModel, frozen=True, extra="forbid"):
    """The mean and spread of each score, and its weight; JSON by pydantic's own methods."""

    names: tuple[str, ...] = SCORE_NAMES
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,) * len(SCORE_NAMES)

    @model_validator(mode="after")
    def _fits_together(self) -> "Reward":
        if not len(self.names) == len(self.mean) == len(self.spread) == len(self.weights):
            raise ValueError("names, mean, spread and weights must be of one length")
        if not all(math.isfinite(value) for value in self.mean + self.spread + self.weights):
            raise ValueError("means, spreads and weights must be finite")
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError("weights must not be negative, nor all zero")
        return self

    @classmethod
    def fit(
        cls,
        table: Tensor,
        weights: tuple[float, ...] | None = None,
        names: tuple[str, ...] = SCORE_NAMES,
    ) -> "Reward":
        """Return the reward standardised on a table of scores (images, scores), named in order.

        Raises:
            InputError: the table has no rows, the wrong columns or numbers that are not finite.
        """
        if table.ndim != 2 or table.shape[1] != len(names) or len(table) == 0:
            raise InputError(f"scores {tuple(table.shape)}, expected (images, {len(names)})")
        if not bool(torch.isfinite(table).all()):
            raise InputError("the scores to fit a reward on hold NaN or infinite numbers")
        table = table.double()
        return cls(
            names=names,
            mean=tuple(table.mean(0).tolist()),
            spread=tuple(table.std(0, unbiased=False).tolist()),
            weights=weights or (1.0,) * len(names),
        )

    def standardised(self, scores: Tensor) -> Tensor:
        """Return (n, scores) in standard deviations from the mean; 0 where nothing varied."""
        mean, spread = (
            torch.tensor(part, dtype=torch.float64) for part in (self.mean, self.spread)
        )
        units = (scores.double() - mean) / spread.clamp(min=SMALLEST_SPREAD)
        return torch.where(spread > SMALLEST_SPREAD, units, torch.zeros_like(units)).float()

    def of(self, scores: Tensor) -> Tensor:
        """Return the reward of each row: (n, scores) -> (n,), float32, higher is better."""
        weights = torch.tensor(self.weights, dtype=torch.float32)
        return self.standardised(scores) @ (weights / weights.sum())
