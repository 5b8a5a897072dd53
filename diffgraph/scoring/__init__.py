"""How good is an image for its prompt?

A new scorer is one file here and one line in `SCORERS`; the contract tests run over the table.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffgraph.artifacts import sha256_of
from diffgraph.errors import MissingInput
from diffgraph.families import Family, get_family
from diffgraph.scoring.aesthetic_score import AestheticScore
from diffgraph.scoring.clip_score import ClipScore
from diffgraph.scoring.hps import HumanPreferenceScore
from diffgraph.scoring.image_reward import ImageReward
from diffgraph.scoring.learned import CONFIG, WEIGHTS, LearnedScorer, ScorerConfig
from diffgraph.scoring.pick_score import PickScore
from diffgraph.scoring.reward import Reward
from diffgraph.scoring.scorer import SCORE_NAMES, Scorer

__all__ = [
    "SCORERS", "SCORE_NAMES", "LearnedScorer", "Reward", "Scorer", "ScorerConfig",
    "get_scorers", "identity_of", "score",
]  # fmt: skip

SCORERS: Mapping[str, type[LearnedScorer]] = {
    scorer.name: scorer
    for scorer in (ClipScore, ImageReward, AestheticScore, PickScore, HumanPreferenceScore)
}
"""The scorers by name, in the order of `SCORE_NAMES`."""


def get_scorers(family: str | Family, device: str | torch.device = "cpu") -> dict[str, Scorer]:
    """Load the scorers that ship with a family, in the order of `SCORE_NAMES`.

    Raises:
        UnknownFamily: there is no such family.
        MissingInput: the family ships no scorers.
    """
    from transformers import CLIPTokenizer

    known = get_family(family) if isinstance(family, str) else family
    if known.assets is None or not (known.assets / "scorers").is_dir():
        raise MissingInput(f"family {known.name} ships no scorers")
    tokenizer = CLIPTokenizer.from_pretrained(
        known.assets / "base" / "tokenizer", local_files_only=True
    )
    folder = known.assets / "scorers"
    return {name: kind.load(folder / name, tokenizer, device) for name, kind in SCORERS.items()}


def identity_of(family: str | Family) -> str:
    """Return the content hash of a family's scorers: equal identities give equal scores.

    Raises:
        UnknownFamily: there is no such family.
        MissingInput: the family ships no scorers.
    """
    known = get_family(family) if isinstance(family, str) else family
    if known.assets is None or not (known.assets / "scorers").is_dir():
        raise MissingInput(f"family {known.name} ships no scorers")
    files = [
        known.assets / "scorers" / name / part for name in SCORERS for part in (CONFIG, WEIGHTS)
    ]
    hashes = [sha256_of(file) if file.is_file() else "" for file in files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def score(scorers: Mapping[str, Scorer], images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return every scorer's score of every image: (n, scorers), float32, in the scorers' order.

    Args:
        scorers: as `get_scorers` returns them.
        images: (n, 3, height, width), float, in [0, 1].
        prompts: one per image.
    """
    return torch.stack([scorer(images, prompts) for scorer in scorers.values()], dim=1)
