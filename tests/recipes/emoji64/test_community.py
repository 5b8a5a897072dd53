"""The community holds what the design asks of it, and its pages tell of it what they should."""

from datetime import date

import pytest

from diffgraph.experts.expert import ExpertRef
from recipes.emoji64.art import GROUPS, STYLES
from recipes.emoji64.community import (
    CHECKPOINTS,
    COMMUNITY,
    PEFTS,
    Recipe,
    experts_for,
    recipe_of,
)
from recipes.emoji64.hub import example_prompts, read_pages
from recipes.emoji64.treatments import TREATMENTS

BY_SLUG = pytest.mark.parametrize("recipe", COMMUNITY, ids=lambda recipe: recipe.slug)


def test_there_are_enough_experts_of_each_kind() -> None:
    assert len(CHECKPOINTS) >= 7
    assert len(PEFTS) >= 28
    assert {recipe.method for recipe in PEFTS} == {"lora", "locon", "loha", "lokr", "dora"}
    assert {recipe.layout for recipe in PEFTS} >= {"kohya", "diffusers", "peft", "lycoris"}
    assert len({(recipe.rank, recipe.alpha) for recipe in PEFTS}) >= 6
    assert len({recipe.strength for recipe in COMMUNITY}) >= 5


def test_a_third_came_after_june_2023() -> None:
    late = [recipe for recipe in COMMUNITY if recipe.released > date(2023, 6, 30)]
    assert len(late) >= len(COMMUNITY) / 3
    assert min(recipe.released for recipe in COMMUNITY).year == 2023
    assert max(recipe.released for recipe in COMMUNITY) < date(2025, 7, 1)


def test_some_are_not_what_they_seem() -> None:
    by_quality = {
        quality: [recipe for recipe in COMMUNITY if recipe.quality == quality]
        for quality in ("redundant", "broken", "empty promise", "weak")
    }
    assert len(by_quality["redundant"]) >= 3
    assert [recipe.kind for recipe in by_quality["broken"]] == ["checkpoint"]
    assert len(by_quality["empty promise"]) >= 2
    assert all(recipe.promises != recipe.treatments for recipe in by_quality["empty promise"])
    assert len(by_quality["weak"]) >= 2


def test_two_checkpoints_learnt_the_same_from_other_seeds() -> None:
    first, second = recipe_of("critter_cabin"), recipe_of("petting_zoo_mix")
    assert (first.groups, first.styles) == (second.groups, second.styles)
    assert first.seed != second.seed


@BY_SLUG
def test_a_recipe_is_made_of_things_that_exist(recipe: Recipe) -> None:
    assert set(recipe.treatments + recipe.promises) <= set(TREATMENTS)
    assert set(recipe.groups) <= set(GROUPS)
    assert set(recipe.styles) <= set(STYLES)
    assert bool(recipe.treatments) == (recipe.kind == "peft")
    assert ExpertRef.parse(recipe.ref).lineage == f"emojihub:{recipe.page}"
    assert 0.5 <= recipe.strength <= 1.5


def test_no_two_share_a_slug_or_a_reference() -> None:
    assert len({recipe.slug for recipe in COMMUNITY}) == len(COMMUNITY)
    assert len({recipe.ref for recipe in COMMUNITY}) == len(COMMUNITY)


@pytest.mark.parametrize(
    "recipe", [one for one in COMMUNITY if one.supersedes], ids=lambda recipe: recipe.slug
)
def test_a_newer_version_follows_an_older_one_on_its_page(recipe: Recipe) -> None:
    older = recipe_of(recipe.supersedes)
    assert older.page == recipe.page
    assert older.released < recipe.released
    assert older.steps < recipe.steps
    assert older.quality == "weak"


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_every_treatment_has_one_good_expert(treatment: str) -> None:
    (expert,) = experts_for([treatment])
    assert expert.treatments == (treatment,)


def test_the_experts_of_a_prompt_are_those_of_its_parts() -> None:
    found = experts_for(["neon", "sticker"], group="animals", style="3d")
    assert [recipe.slug for recipe in found] == ["critter_cabin", "puffy_3d", "neon", "sticker"]
    assert experts_for(group="symbols", style="noto") == ()
    with pytest.raises(KeyError):
        recipe_of("nobody")


@BY_SLUG
def test_every_expert_has_a_page_with_examples(recipe: Recipe) -> None:
    page = read_pages()[recipe.page]
    assert page.description
    assert page.creator
    assert page.tags
    phrases = {phrase for name in TREATMENTS for phrase in TREATMENTS[name].phrases}
    if recipe.kind == "peft" and recipe.quality != "empty promise":
        assert set(page.words) <= phrases, "a trigger word nobody learnt"
    prompts = example_prompts(recipe)
    assert len(set(prompts)) == len(prompts) == 3


def test_no_page_is_about_nobody() -> None:
    assert set(read_pages()) == {recipe.page for recipe in COMMUNITY}


@BY_SLUG
def test_a_strength_other_than_one_is_on_the_page(recipe: Recipe) -> None:
    if recipe.strength != 1.0:
        description = read_pages()[recipe.page].description
        assert "{strength}" in description or "{low}" in description
