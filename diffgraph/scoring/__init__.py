"""How good is an image for its prompt, by the scorers that its family names?"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.families import Family, get_family
from diffgraph.families.scorer import Scorer
from diffgraph.scoring.reward import SCORE_NAMES, Reward

__all__ = ["SCORE_NAMES", "Reward", "Scorer", "get_scorers", "identity_of", "score"]


def get_scorers(family: str | Family, device: str | torch.device = "cpu") -> dict[str, Scorer]:
    """Load a family's scorers, in the order in which it names them.

    Raises:
        UnknownFamily: there is no such family.
        MissingInput: it names a scorer that nothing here computes, or a file is not there.
        DamagedFile: a file does not hold its scorer.
    """
    known = _demand_all(family)
    return {name: named.load(device) for name, named in known.scorers.items() if named.load}


def identity_of(family: str | Family) -> str:
    """Return the content hash of a family's scorers: equal identities give equal scores.

    Raises:
        UnknownFamily, MissingInput: as `get_scorers` does.
    """
    parts = [named.identity() for named in _demand_all(family).scorers.values()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def score(scorers: Mapping[str, Scorer], images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return every scorer's score of every image: (n, scorers), float32, in the scorers' order.

    Args:
        scorers: as `get_scorers` returns them.
        images: (n, 3, height, width), float, in [0, 1].
        prompts: one per image.
    """
    return torch.stack([scorer(images, prompts) for scorer in scorers.values()], dim=1)


def _demand_all(family: str | Family) -> Family:
    known = get_family(family) if isinstance(family, str) else family
    missing = [name for name, named in known.scorers.items() if named.load is None]
    if missing or not known.scorers:
        named = f": nothing here computes {', '.join(missing)}" if missing else ""
        raise MissingInput(f"images of family {known.name} cannot be scored yet{named}")
    return known
