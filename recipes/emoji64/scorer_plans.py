"""Which treatments are asked for together, and which merges are drawn for them?"""

from collections.abc import Collection, Sequence
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pyarrow.parquet as pq

from diffgraph.families.emoji64 import ASSETS
from recipes.emoji64.community import COMMUNITY, Recipe
from recipes.emoji64.treatments import TREATMENTS, compatible_sets

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
DRAWN = (
    "base",
    *(f"right {strength}" for strength in STRENGTHS),
    "right mixed",
    "right mixed again",
    "one right",
    "another right",
    "right and wrong",
    "wrong",
    "right and checkpoint",
    "checkpoint",
    "anything",
)
"""Images of merges, by what was merged."""
SIZES = (0.08, 0.27, 0.45, 0.20)  # shares of prompts with 0, 1, 2 and 3 treatments


@cache
def asked_by_bench() -> frozenset[tuple[str, tuple[str, ...]]]:
    """Return what the bench asks for: subjects' names with sorted treatments."""
    rows = pq.read_table(ASSETS / "prompts" / "bench.parquet").to_pylist()
    return frozenset((row["subject"], tuple(sorted(row["treatments"]))) for row in rows)


def is_held_out(treatments: Collection[str]) -> bool:
    """Say whether the bench asks for such a pair: scorers must not train on it."""
    asked = {own for _, own in asked_by_bench()}
    names = sorted(treatments)
    return len(names) > 1 and (
        tuple(names) in asked or any(pair in asked for pair in combinations(names, 2))
    )


def covered(community: Sequence[Recipe] = COMMUNITY) -> frozenset[str]:
    """Return the treatments that some good expert has."""
    good = (recipe for recipe in community if recipe.kind == "peft" and recipe.quality == "good")
    return frozenset(name for recipe in good for name in recipe.treatments if name in TREATMENTS)


def treatment_sets(
    count: int, held_out: bool, rng: np.random.Generator, known: Collection[str] | None = None
) -> list[tuple[str, ...]]:
    """Return sets of 0 to 3 treatments, spread evenly over them; or of held-out pairs only.

    Args:
        count: how many.
        held_out: the pairs that are kept for tests.
        rng: draws them.
        known: the treatments to use; all that are covered by default.
    """
    known = covered() if known is None else frozenset(known)
    sizes = (0.0, 0.0, 1.0, 0.0) if held_out else SIZES
    options = [
        [
            names
            for names in (compatible_sets(size) if size else [()])
            if known.issuperset(names) and is_held_out(names) == held_out
        ]
        for size in range(len(sizes))
    ]
    shares = [share if able else 0.0 for share, able in zip(sizes, options, strict=True)]
    ends = np.round(np.cumsum(shares) / max(sum(shares), 1e-9) * count).astype(int)
    chosen: list[tuple[str, ...]] = []
    used = dict.fromkeys(sorted(known), 0)
    for size, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        for _ in range(end - start):
            tired = [
                sum(used[name] for name in names) / max(1, size) + rng.random()
                for names in options[size]
            ]
            best = options[size][int(np.argmin(tired))]
            chosen.append(best)
            for name in best:
                used[name] += 1
    return chosen


def plans_of(
    treatments: Sequence[str], rng: np.random.Generator, community: Sequence[Recipe] = COMMUNITY
) -> list[tuple[dict[str, float], frozenset[str]]]:
    """Return a plan for every kind of `DRAWN`, and the treatments it applies."""
    right = [_expert_of(name, rng, community) for name in treatments]
    checkpoints = [recipe for recipe in community if recipe.kind == "checkpoint"]
    others = [
        recipe
        for recipe in community
        if recipe.kind == "peft" and not set(recipe.treatments) & set(treatments)
    ]

    def some(pool: Sequence[Recipe], count: int) -> list[Recipe]:
        return [pool[int(place)] for place in rng.permutation(len(pool))[:count]]

    def at(recipes: Sequence[Recipe], low: float, high: float | None = None) -> dict[str, float]:
        top = low if high is None else high
        return {recipe.slug: float(rng.uniform(low, top)) * recipe.strength for recipe in recipes}

    # a prompt without treatments is served by a checkpoint: its strengths are what is varied
    main = right or some([recipe for recipe in checkpoints if recipe.quality == "good"], 1)
    wrong = some(others, int(rng.integers(1, 3)))
    alone = some(main, len(main))  # in any order
    anything = some([*others, *right, *right, *checkpoints], int(rng.integers(2, 5)))
    plans: list[dict[str, float]] = [
        {},
        *(at(main, strength) for strength in STRENGTHS),
        at(main, 0.3, 1.8),
        at(main, 0.6, 1.3),
        at(alone[:1], 0.7, 1.2),
        at(alone[-1:], 0.7, 1.2),
        {**at(main, 0.7, 1.2), **at(wrong[:1], 0.5, 1.2)},
        at(wrong, 0.7, 1.2),
        {**at(main, 0.8, 1.1), **at(some(checkpoints, 1), 0.5, 1.0)},
        at(some(checkpoints, 1), 0.6, 1.4),
        at(anything, 0.1, 1.5),
    ]
    named = {recipe.slug: recipe for recipe in community}
    return [
        (
            plan,
            frozenset(
                name for slug in plan for name in named[slug].treatments if name in TREATMENTS
            ),
        )
        for plan in plans
    ]


def _expert_of(treatment: str, rng: np.random.Generator, community: Sequence[Recipe]) -> Recipe:
    """Return the good expert of a treatment; now and then an older or a redundant one."""
    able = [
        recipe
        for recipe in community
        if treatment in recipe.treatments and recipe.quality in {"good", "weak", "redundant"}
    ]
    good = [recipe for recipe in able if recipe.quality == "good"]
    if good and rng.random() < 0.85:
        return good[0]
    return able[int(rng.integers(len(able)))]
