"""Where would the image come in a ranking of many? Stands where HPSv2.1 does.

The prompt modulates how a convolutional network sees the image (FiLM,
https://arxiv.org/abs/1709.07871); trained list-wise on whole groups of images of one prompt, as the
human preference score was on rankings (https://arxiv.org/abs/2306.09341).
"""

import torch
from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.networks import (
    WIDTHS,
    Down,
    FeatureSummary,
    Residual,
    TextEncoder,
)

WIDTH = 64
LOW, MIDDLE, HIGH = WIDTHS


class ModulatedNetwork(nn.Module):
    """A convolutional network whose residual blocks are scaled and shifted by the prompt."""

    def __init__(self, vocabulary: int, end: int):
        super().__init__()
        self.read = TextEncoder(vocabulary, end, width=64, layers=2, outside=WIDTH)
        self.fine = nn.Sequential(Down(3, LOW), Down(LOW, MIDDLE))
        self.middle = Residual(MIDDLE)
        self.down = Down(MIDDLE, HIGH)
        self.high = Residual(HIGH)
        self.modulate = nn.Linear(WIDTH, 2 * (MIDDLE + HIGH))
        self.summary = FeatureSummary(HIGH, WIDTH)
        self.head = nn.Sequential(nn.Linear(3 * WIDTH, 96), nn.SiLU(), nn.Linear(96, 1))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return one rating each: (n,)."""
        text = self.read(ids)
        scale_middle, shift_middle, scale_high, shift_high = self.modulate(text).split(
            [MIDDLE, MIDDLE, HIGH, HIGH], dim=1
        )
        features = self.middle(self.fine(images), scale_middle, shift_middle)
        features = self.high(self.down(features), scale_high, shift_high)
        seen = self.summary(features)
        rating: Tensor = self.head(torch.cat([seen, text, seen * text], dim=1))
        return rating.squeeze(-1).float()


class HumanPreferenceScore(LearnedScorer):
    """A ranking score; 25 is an average image, 5 more one standard deviation better."""

    name = "hps"

    @staticmethod
    def build(vocabulary: int, end: int) -> ModulatedNetwork:
        """Return the network with random weights."""
        return ModulatedNetwork(vocabulary, end)
