"""Which of two images would be picked? Stands where PickScore does.

A transformer over the cells of a convolutional trunk, the hybrid of
https://arxiv.org/abs/2010.11929, and a text encoder; the scaled cosine is trained so that its
softmax over two images of one prompt predicts the pick (https://arxiv.org/abs/2305.01569).
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.networks import CellTransformer, ConvTrunk, TextEncoder

WIDTH = 96


class PickNetwork(nn.Module):
    """Two encoders with a common space and a learned temperature."""

    def __init__(self, vocabulary: int, end: int):
        super().__init__()
        self.trunk = ConvTrunk()
        self.cells = CellTransformer(self.trunk.width, WIDTH, layers=2)
        self.see = nn.Linear(2 * WIDTH, WIDTH)
        self.read = TextEncoder(vocabulary, end, width=64, layers=2, outside=WIDTH)
        self.log_temperature = nn.Parameter(torch.tensor(2.6))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return the cosine times the temperature: (n,)."""
        tokens = self.cells(self.trunk(images))
        seen = self.see(torch.cat([tokens.mean(1), tokens.amax(1)], dim=1)).float()
        cosine = F.cosine_similarity(seen, self.read(ids).float(), dim=-1)
        return cosine * self.log_temperature.exp()


class PickScore(LearnedScorer):
    """The cosine times the learned temperature: what a softmax over candidates takes."""

    name = "pick_score"

    @staticmethod
    def build(vocabulary: int, end: int) -> PickNetwork:
        """Return the network with random weights."""
        return PickNetwork(vocabulary, end)
