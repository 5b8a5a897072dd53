"""What are the learned scorers made of?

Small pieces that read a 64 px image or a prompt. Every one treats each row of a batch on its own
(group and layer normalisation, never batch normalisation): an image's score must not depend on its
neighbours.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

RESOLUTION = 64
TEXT_TOKENS = 32
WORD_WIDTH = 48  # the table of words is most of a text encoder: it is kept narrow, then widened
GROUPS = 8
WIDTHS = (48, 80, 128)  # of a convolutional trunk, at 32, 16 and 8 pixels a side


def prepared(images: Tensor) -> Tensor:
    """Return images (n, 3, h, w) in [0, 1] as (n, 3, 64, 64) in [-1, 1]."""
    if images.shape[-2:] != (RESOLUTION, RESOLUTION):
        images = F.interpolate(images, (RESOLUTION, RESOLUTION), mode="bilinear", antialias=True)
    return images * 2 - 1


class Residual(nn.Module):
    """Two convolutions around a shortcut (He et al., https://arxiv.org/abs/1512.03385)."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.after = nn.GroupNorm(GROUPS, width)

    def forward(
        self, features: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Return features of one shape; `scale` and `shift` (n, width) modulate the inner ones."""
        inner = self.norm(self.first(features))
        if scale is not None and shift is not None:
            inner = inner * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return F.silu(features + self.after(self.second(F.silu(inner))))


class Down(nn.Module):
    """Halve the resolution."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, outside)

    def forward(self, features: Tensor) -> Tensor:
        """Return features at half the resolution."""
        return F.silu(self.norm(self.conv(features)))


class ConvTrunk(nn.Module):
    """Images to features at 8x8: three halvings, residual blocks after the second and third."""

    def __init__(self, widths: Sequence[int] = WIDTHS):
        super().__init__()
        low, middle, high = widths
        self.width = high
        self.stages = nn.ModuleList(
            [Down(3, low), Down(low, middle), Residual(middle), Down(middle, high), Residual(high)]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, width, 8, 8) of prepared images."""
        features = images
        for stage in self.stages:
            features = stage(features)
        return features


class FeatureSummary(nn.Module):
    """Features at 8x8 to one vector: their mean and their peaks."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.project = nn.Linear(2 * inside, outside)

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, outside)."""
        result: Tensor = self.project(
            torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        )
        return result


class Attention(nn.Module):
    """Multi-head attention (https://arxiv.org/abs/1706.03762), to itself or to other tokens."""

    def __init__(self, width: int, heads: int, source: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return (n, tokens, width); `seen` (n, source tokens) marks what may be looked at."""
        split = (self.heads, tokens.shape[-1] // self.heads)
        query = self.query(tokens).unflatten(-1, split).transpose(1, 2)
        key, value = (
            part.unflatten(-1, split).transpose(1, 2)
            for part in self.key_value(source).chunk(2, dim=-1)
        )
        mask = None if seen is None else seen[:, None, None, :]
        made = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.out(made.transpose(1, 2).flatten(2))
        return result


class TransformerBlock(nn.Module):
    """Self-attention, attention to an image's features if there are any, and a feed-forward."""

    def __init__(self, width: int, heads: int, source: int | None = None, expansion: int = 3):
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, heads)
        self.norm_source = nn.LayerNorm(width) if source else None
        self.attend_source = Attention(width, heads, source) if source else None
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(
        self, tokens: Tensor, seen: Tensor | None = None, source: Tensor | None = None
    ) -> Tensor:
        """Return tokens of the same shape."""
        inner = self.norm_self(tokens)
        tokens = tokens + self.attend_self(inner, inner, seen)
        if self.attend_source is not None and self.norm_source is not None and source is not None:
            tokens = tokens + self.attend_source(self.norm_source(tokens), source)
        result: Tensor = tokens + self.feed(self.norm_feed(tokens))
        return result


class Words(nn.Module):
    """Token ids to vectors, and which of them are words rather than padding."""

    def __init__(self, vocabulary: int, end: int, width: int):
        super().__init__()
        self.end = end
        self.table = nn.Embedding(vocabulary, WORD_WIDTH)
        self.widen = nn.Linear(WORD_WIDTH, width)
        self.position = nn.Parameter(torch.randn(TEXT_TOKENS, width) * 0.02)
        nn.init.normal_(self.table.weight, std=0.5)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, tokens, width) and what is seen (n, tokens): up to the first end token."""
        ends = (ids == self.end).long()
        seen = ends.cumsum(1) - ends == 0
        return self.widen(self.table(ids)) + self.position[: ids.shape[1]], seen


class TextEncoder(nn.Module):
    """A prompt to one vector: the mean over its words after a small transformer."""

    def __init__(
        self, vocabulary: int, end: int, width: int, layers: int, outside: int, heads: int = 4
    ):
        super().__init__()
        self.words = Words(vocabulary, end, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, outside)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (n, outside)."""
        tokens, seen = self.words(ids)
        for block in self.blocks:
            tokens = block(tokens, seen)
        weight = seen.unsqueeze(-1).to(tokens.dtype)
        result: Tensor = self.project(self.norm((tokens * weight).sum(1) / weight.sum(1)))
        return result


class CellTransformer(nn.Module):
    """The 64 cells of a trunk's features, on through a transformer."""

    def __init__(self, inside: int, width: int, layers: int, heads: int = 4):
        super().__init__()
        self.project = nn.Linear(inside, width)
        self.position = nn.Parameter(torch.randn(64, width) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, expansion=2) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, 64, width) of features (n, inside, 8, 8)."""
        tokens = self.project(features.flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        result: Tensor = self.norm(tokens)
        return result
