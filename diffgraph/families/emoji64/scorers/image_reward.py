"""Which image would be preferred, judged word by word? Stands where ImageReward does.

The prompt's words look at the image through cross-attention and one number comes out, trained on
ranked pairs with the Bradley-Terry loss (https://arxiv.org/abs/2304.05977). As there, scores are
standardised: 0 is an average image, 100 one standard deviation better.
"""

import torch
from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.networks import (
    ConvTrunk,
    FeatureSummary,
    TransformerBlock,
    Words,
)

WIDTH = 64


class CrossNetwork(nn.Module):
    """Words that attend to the cells of an image."""

    def __init__(self, vocabulary: int, end: int):
        super().__init__()
        self.trunk = ConvTrunk()
        self.words = Words(vocabulary, end, WIDTH)
        self.cells = nn.Parameter(torch.randn(64, self.trunk.width) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(WIDTH, 4, source=self.trunk.width, expansion=2) for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.summary = FeatureSummary(self.trunk.width, WIDTH)
        self.head = nn.Sequential(nn.Linear(2 * WIDTH, 128), nn.SiLU(), nn.Linear(128, 1))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return one rating each: (n,)."""
        features = self.trunk(images)
        source = features.flatten(2).transpose(1, 2) + self.cells
        tokens, seen = self.words(ids)
        for block in self.blocks:
            tokens = block(tokens, seen, source)
        weight = seen.unsqueeze(-1).to(tokens.dtype)
        read = self.norm((tokens * weight).sum(1) / weight.sum(1))
        rating: Tensor = self.head(torch.cat([read, self.summary(features)], dim=1))
        return rating.squeeze(-1).float()


class ImageReward(LearnedScorer):
    """A preference in hundredths of a standard deviation."""

    name = "image_reward"

    @staticmethod
    def build(vocabulary: int, end: int) -> CrossNetwork:
        """Return the network with random weights."""
        return CrossNetwork(vocabulary, end)
