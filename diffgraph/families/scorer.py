"""What is a scorer, and what does a family say of those that rate its images?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


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


@dataclass(frozen=True)
class FamilyScorer:
    """A scorer as its family, or a package that adds it, names it."""

    title: str  # at the head of a column
    load: Callable[..., Scorer] | None = field(default=None, repr=False)  # (device) -> scorer
    identity: Callable[[], str] = field(default=str, repr=False)
    """Equal identities give equal scores: a hash of the weights, as a rule."""
    note: str = ""  # what a reader of its numbers must know
    families: tuple[str, ...] = ()
    """Of a package's own scorer: whose images it rates; of all families if empty."""

    def rates(self, family: str) -> bool:
        """Whether it rates a family's images."""
        return not self.families or family in self.families


PUBLISHED: Mapping[str, FamilyScorer] = {
    "clip_score": FamilyScorer("CLIP score"),
    "image_reward": FamilyScorer("ImageReward"),
    "aesthetic_score": FamilyScorer("Aesthetic"),
    "pick_score": FamilyScorer("PickScore"),
    "hps": FamilyScorer("HPS"),
}
"""The paper's five (https://arxiv.org/abs/2603.20470, section 3.1), which nothing here computes
yet: without `load` they are names only."""
