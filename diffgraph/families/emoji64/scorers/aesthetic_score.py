"""Is the image well made, whatever was asked for? Stands where the LAION aesthetic predictor does.

A regressor on the embedding of the contrastive image encoder, whose last layers it may adapt; it
never sees the prompt. It learnt to tell clean pictures from noisy, washed-out, half-treated,
over-strong and broken ones.
"""

from torch import Tensor, nn

from diffgraph.families.emoji64.scorers.learned import LearnedScorer
from diffgraph.families.emoji64.scorers.networks import ConvTrunk, FeatureSummary

WIDTH = 128


class AestheticNetwork(nn.Module):
    """The contrastive image encoder and a small head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ConvTrunk()
        self.summary = FeatureSummary(self.trunk.width, WIDTH)
        self.head = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Return one rating each: (n,). The prompt's ids play no part."""
        rating: Tensor = self.head(self.summary(self.trunk(images)))
        return rating.squeeze(-1).float()


class AestheticScore(LearnedScorer):
    """From about 1 (broken) to about 10; 5.5 is an average image."""

    name = "aesthetic_score"

    @staticmethod
    def build(vocabulary: int, end: int) -> AestheticNetwork:
        """Return the network with random weights; the vocabulary plays no part."""
        return AestheticNetwork()
