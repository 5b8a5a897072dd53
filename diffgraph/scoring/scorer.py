"""How good is an image for its prompt? One number a scorer, higher is better."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

SCORE_NAMES = ("clip_score", "image_reward", "aesthetic_score", "pick_score", "hps")
"""The five scores of an edge, in the order they are stored in. See the paper, section 3.1."""


class Scorer(Protocol):
    """Rates images against their prompts; higher is better, always."""

    name: str

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return one score per image: (batch,), float32, on the CPU.

        Args:
            images: (batch, 3, height, width), float, in [0, 1].
            prompts: one per image.
        """
        ...
