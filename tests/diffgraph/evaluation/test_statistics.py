import math

import numpy as np
import pyarrow as pa
import pytest

from diffgraph.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    summarise,
    win_rate,
)
from diffgraph.scoring.reward import SCORE_NAMES


def generator(seed=0):
    return np.random.default_rng(seed)


def table(**rewards):
    rows = [
        {
            "method": method,
            "prompt_id": f"p{prompt}",
            "seed": seed,
            **dict.fromkeys(("reward", *SCORE_NAMES), value),
        }
        for method, values in rewards.items()
        for prompt, seeds in enumerate(values)
        for seed, value in enumerate(seeds)
    ]
    return pa.Table.from_pylist(rows)


def test_the_interval_of_a_mean_is_the_normal_one_for_many_prompts():
    values = generator(1).normal(3.0, 2.0, size=2_000)
    interval = bootstrap_mean(values, generator=generator())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_pairing_removes_what_both_methods_share():
    hardness = generator(1).normal(0, 100, size=50)
    mean, low, high = paired_bootstrap(hardness + 1, hardness, generator=generator())
    assert (mean, low, high) == pytest.approx((1, 1, 1))


def test_two_prompts_have_the_interval_that_is_counted_by_hand():
    # the mean of two draws from {0, 1} is 0, 0.5 or 1 with 1/4, 1/2, 1/4
    mean, low, high = paired_bootstrap([1, 2], [1, 1], generator=generator())
    assert (mean, low, high) == (0.5, 0.0, 1.0)


def test_an_interval_covers_the_truth_about_95_times_in_100():
    draws = generator(7)
    covered = 0
    for _ in range(200):
        interval = bootstrap_mean(draws.normal(size=60), samples=400, generator=draws)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_generator_gives_the_same_interval():
    values = generator(3).normal(size=30)
    first = bootstrap_mean(values, generator=generator(5))
    assert first == bootstrap_mean(values, generator=generator(5))


def test_pairs_must_match():
    with pytest.raises(ValueError, match="one pair a prompt"):
        paired_bootstrap([1, 2], [1], generator=generator())
    with pytest.raises(ValueError, match="one pair a prompt"):
        paired_bootstrap([], [], generator=generator())


def test_a_tie_is_half_a_win():
    assert win_rate(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 9.0, 0.0])) == 0.625


def test_zero_outside_the_interval_is_clear():
    assert Interval(mean=1, low=0.1, high=2).is_clear
    assert Interval(mean=-1, low=-2, high=-0.1).is_clear
    assert not Interval(mean=1, low=-0.1, high=2).is_clear


def test_seeds_are_averaged_first_so_that_prompts_are_the_sample():
    rewards = table(diffgraph=[[0, 2], [1, 3]], base=[[0, 0], [1, 1]])
    summary = summarise(rewards)
    assert summary.seeds == 2
    assert [found.method for found in summary.methods] == ["diffgraph", "base"]
    assert summary.of("diffgraph").scores["reward"].mean == 1.5
    lead = summary.of("base").lead["reward"]
    assert (lead.mean, lead.low, lead.high) == (1, 1, 1)  # each prompt leads by 1 on average
    assert summary.of("base").win_rate == 1.0
    assert summary.of("diffgraph").lead == {}


def test_methods_on_different_prompts_are_not_compared():
    rewards = table(diffgraph=[[1], [2]], base=[[1]])
    with pytest.raises(ValueError, match="base was not evaluated on the same prompts"):
        summarise(rewards)


def test_a_missing_reference_is_named():
    with pytest.raises(ValueError, match="diffgraph"):
        summarise(table(base=[[1]]))
