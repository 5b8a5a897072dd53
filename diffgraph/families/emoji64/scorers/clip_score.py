"""Does the image show what the prompt says? Stands where CLIP Score does.

Two encoders trained to bring images and their prompts together (https://arxiv.org/abs/2103.00020);
the score is Hessel's 2.5 times the cosine, at least 0, in percent
(https://arxiv.org/abs/2104.08718).
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.networks import ConvTrunk, FeatureSummary, TextEncoder

WIDTH = 128
SCALE = 250.0


class ContrastiveNetwork(nn.Module):
    """A convolutional image encoder and a text encoder with a common space."""

    def __init__(self, vocabulary: int, end: int):
        super().__init__()
        self.trunk = ConvTrunk()
        self.summary = FeatureSummary(self.trunk.width, WIDTH)
        self.text = TextEncoder(vocabulary, end, width=64, layers=2, outside=WIDTH)
        self.log_temperature = nn.Parameter(torch.tensor(2.6))

    def see(self, images: Tensor) -> Tensor:
        """Return embeddings of unit length: (n, 128)."""
        return F.normalize(self.summary(self.trunk(images)).float(), dim=-1)

    def read(self, ids: Tensor) -> Tensor:
        """Return embeddings of unit length: (n, 128)."""
        return F.normalize(self.text(ids).float(), dim=-1)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return the cosine, at least 0: (n,)."""
        return (self.see(images) * self.read(ids)).sum(-1).clamp(min=0)


class ClipScore(LearnedScorer):
    """Percent of agreement between image and prompt, 0 to 250."""

    name = "clip_score"

    @staticmethod
    def build(vocabulary: int, end: int) -> ContrastiveNetwork:
        """Return the network with random weights."""
        return ContrastiveNetwork(vocabulary, end)
