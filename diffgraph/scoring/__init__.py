"""How good is an image for its prompt, by the scorers that its family names?"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.extensions import Extensible
from diffgraph.families import FAMILIES, Family, get_family
from diffgraph.families.scorer import FamilyScorer, Scorer
from diffgraph.scoring.reward import SCORE_NAMES, Reward

__all__ = [
    "SCORERS", "SCORE_NAMES", "Reward", "Scorer", "can_score", "get_scorers", "identity_of",
    "score", "scorers_of",
]  # fmt: skip

COLUMNS = frozenset(
    ["error", "expert", "file", "id", "key", "method", "plan", "plan_id", "planner", "prompt",
     "prompt_id", "reward", "seed", "snapshot"]
)  # fmt: skip
"""What tables with a column a score have beside them: no score is called so."""


def _refuse(name: str, value: Any) -> str:
    if not isinstance(value, FamilyScorer):
        return f"a FamilyScorer is wanted, not {type(value).__name__}"
    if value.load is None:
        return "it has no `load`"
    if not value.identity():
        return "its `identity` is empty: equal identities mean equal scores"
    if name in COLUMNS:
        return "a table has another column of that name"
    ours = [
        family.name
        for family in FAMILIES.values()
        if value.rates(family.name) and (own := family.scorers.get(name)) and own.load
    ]
    return f"{', '.join(ours)} has a scorer of that name" if ours else ""


SCORERS: Extensible[FamilyScorer] = Extensible("scorers", {}, _refuse)
"""What other packages add to the scorers that families name."""


def scorers_of(family: str | Family) -> dict[str, FamilyScorer]:
    """Return what rates a family's images: its own first, then what packages add."""
    known = get_family(family) if isinstance(family, str) else family
    added = {name: scorer for name, scorer in SCORERS.items() if scorer.rates(known.name)}
    return {**known.scorers, **added}


def get_scorers(
    family: str | Family,
    device: str | torch.device = "cpu",
    names: Sequence[str] | None = None,
) -> dict[str, Scorer]:
    """Load a family's scorers.

    Args:
        family: whose images they rate.
        device: where they do.
        names: which, in which order; all, in the order in which they are named, if unset.

    Raises:
        UnknownFamily: there is no such family.
        MissingInput: one of them is not there: nothing here computes it, or a file is missing.
        DamagedFile: a file does not hold its scorer.
    """
    wanted = _demand(family, names)
    return {name: named.load(device) for name, named in wanted.items() if named.load}


def can_score(family: str | Family, names: Sequence[str] | None = None) -> bool:
    """Return whether anything here computes a family's scores."""
    try:
        _demand(family, names)
    except MissingInput:
        return False
    return True


def identity_of(family: str | Family, names: Sequence[str] | None = None) -> str:
    """Return the content hash of a family's scorers: equal identities give equal scores.

    Raises:
        UnknownFamily, MissingInput: as `get_scorers` does.
    """
    parts = [named.identity() for named in _demand(family, names).values()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def score(scorers: Mapping[str, Scorer], images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return every scorer's score of every image: (n, scorers), float32, in the scorers' order.

    Args:
        scorers: as `get_scorers` returns them.
        images: (n, 3, height, width), float, in [0, 1].
        prompts: one per image.
    """
    return torch.stack([scorer(images, prompts) for scorer in scorers.values()], dim=1)


def _demand(family: str | Family, names: Sequence[str] | None) -> dict[str, FamilyScorer]:
    known = get_family(family) if isinstance(family, str) else family
    there = scorers_of(known)
    wanted = {name: there.get(name) for name in (there if names is None else names)}
    usable = {name: named for name, named in wanted.items() if named and named.load}
    missing = [name for name in wanted if name not in usable]
    if missing or not usable:
        named = f": nothing here computes {', '.join(missing)}" if missing else ""
        raise MissingInput(f"images of family {known.name} cannot be scored yet{named}")
    return usable
