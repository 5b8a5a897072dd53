"""Are the prompt sets disjoint, reproducible and true?"""

from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from diffgraph.errors import MissingInput
from diffgraph.evaluation.prompt_sets import bundled_sets
from recipes.emoji64.art import STYLES, Art, Subject
from recipes.emoji64.community import COMMUNITY, recipe_of
from recipes.emoji64.composed_prompts import prompt_sets, write_prompt_sets
from recipes.emoji64.freeform import FREEFORM, SUBJECTS
from recipes.emoji64.treatments import TREATMENTS, is_compatible

SIZES = {"reference": 400, "train": 2400, "bench": 150, "freeform": 60}


def blank_art() -> Art:
    """Art that draws every subject asked for in every style."""
    names = {name for names in SUBJECTS.values() for name in names.split(", ")}
    names |= {sentence[1] for sentence in FREEFORM if sentence[1]}
    subjects = tuple(Subject(f"{i:x}", name, (), "food") for i, name in enumerate(sorted(names)))
    count = len(subjects) * len(STYLES)
    return Art(
        torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 64, 64, 4),
        torch.arange(len(subjects)).repeat(len(STYLES)),
        torch.arange(len(STYLES)).repeat_interleave(len(subjects)),
        subjects,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return all that stands in a set, more than who draws it reads."""
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[dict[str, Any]]]:
    return {name: rows_of(path) for name, path in bundled_sets().items()}


def test_the_same_art_gives_the_same_bytes(tmp_path: Path) -> None:
    art = blank_art()
    assert write_prompt_sets(art, tmp_path / "first") == SIZES
    write_prompt_sets(art, tmp_path / "second")
    for name in {path.name for path in bundled_sets().values()}:
        first, second = (tmp_path / part / name for part in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_another_seed_gives_other_prompts() -> None:
    art = blank_art()
    assert prompt_sets(art, 1)["bench"] != prompt_sets(art, 2)["bench"]


def test_a_subject_that_is_not_drawn_is_named() -> None:
    art = blank_art()
    poor = Art(art.images, art.subject, art.style, art.subjects[1:])
    with pytest.raises(MissingInput, match=art.subjects[0].name):
        prompt_sets(poor)


def test_no_prompt_is_in_two_sets_or_twice_in_one(shipped: dict[str, list[dict[str, Any]]]) -> None:
    assert {name: len(rows) for name, rows in shipped.items()} == SIZES
    texts = [row["prompt"].casefold() for rows in shipped.values() for row in rows]
    assert len(texts) == len(set(texts))
    ids = [row["id"] for rows in shipped.values() for row in rows]
    assert len(ids) == len(set(ids))


def test_the_bench_asks_for_pairs_nothing_was_trained_on(
    shipped: dict[str, list[dict[str, Any]]],
) -> None:
    def pairs(name: str) -> set[tuple[str, ...]]:
        return {pair for row in shipped[name] for pair in combinations(row["treatments"], 2)}

    trained = pairs("train") | pairs("reference")
    several = [row for row in shipped["bench"] if len(row["treatments"]) > 1]
    assert len(several) == 120
    for row in several:
        assert set(combinations(row["treatments"], 2)) - trained, row
    doubles = {tuple(row["treatments"]) for row in several if len(row["treatments"]) == 2}
    assert len(doubles) > 50
    assert doubles.isdisjoint(trained)


def test_every_treatment_is_asked_for_in_every_set(
    shipped: dict[str, list[dict[str, Any]]],
) -> None:
    for name, rows in shipped.items():
        assert {treatment for row in rows for treatment in row["treatments"]} == set(TREATMENTS), (
            name
        )


def test_the_truth_is_drawable_and_the_right_experts_have_learnt_it(
    shipped: dict[str, list[dict[str, Any]]],
) -> None:
    by_ref = {recipe.ref: recipe for recipe in COMMUNITY}
    for row in (row for rows in shipped.values() for row in rows):
        assert is_compatible(row["treatments"])
        assert row["style"] in (None, *STYLES)
        right = [by_ref[ref] for ref in row["experts"]]
        learnt = {name for recipe in right for name in recipe.treatments}
        assert learnt == set(row["treatments"])
        assert all(recipe.quality == "good" for recipe in right)
        assert not set(row["experts"]) & set(row["also"])


def test_redundant_experts_are_alternatives(shipped: dict[str, list[dict[str, Any]]]) -> None:
    sepia = next(row for row in shipped["train"] if "sepia" in row["treatments"])
    assert recipe_of("sepia").ref in sepia["experts"]
    assert recipe_of("old_photograph").ref in sepia["also"]
