"""Scorers of the recipe are trained by several processes as they are here."""

from dataclasses import replace

import pytest

from recipes.emoji64.expert_stage import make_some_experts
from recipes.emoji64.recipe_settings import REHEARSED
from recipes.emoji64.scorer_data import load_data
from recipes.emoji64.scorer_stage import (
    data_names,
    make_scorers,
    make_some_scorers,
    missing,
    path_of,
)
from recipes.emoji64.train_scorers import ORDER
from tests.recipes.emoji64 import conftest, test_stages
from tests.recipes.emoji64.test_stages import stamps

ADAPTERS = REHEARSED[1:]  # the pictures show none of the first one's subjects
few_pictures = conftest.few_pictures
settings, base = test_stages.settings, test_stages.base


@pytest.mark.slow
def test_scorers_are_made_here_or_by_several_processes(settings, base, tmp_path):
    """Both ways make the same files, and what is made is not made again."""
    results = replace(settings, out=tmp_path / "several", experts=ADAPTERS, gpus=(0, 1))
    results.out.mkdir()
    (results.out / "base").symlink_to(settings.out / "base")
    make_some_experts(results, ADAPTERS)
    make_scorers(results)
    names = [*data_names(results), *ORDER]
    assert not missing(results, names)
    before = stamps(results.out)
    make_scorers(results)
    assert stamps(results.out) == before

    alone = replace(results, out=tmp_path / "alone", gpus=(0,))
    alone.out.mkdir()
    for part in ("base", "weights"):
        (alone.out / part).symlink_to(results.out / part)
    make_some_scorers(alone, ["training-1", "test"])
    assert missing(alone, names) == ["training-0", *ORDER]
    for name in ("training-1", "test"):
        first, second = (load_data(path_of(own, name)) for own in (results, alone))
        assert first.compositions == second.compositions
        # up to float rounding: the processes have other numbers of threads
        assert (first.images.int() - second.images.int()).abs().float().mean() < 0.01
