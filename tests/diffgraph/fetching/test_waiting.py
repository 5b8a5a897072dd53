"""A server may say in many ways how long it wants to be left alone."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from diffgraph.fetching.waiting import retry_after, wait_of_failure, wait_of_limit


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=1;t=55'}, 0.0),
        ({"RateLimit": '"api"; r=0; t=55'}, 55.0),
        ({"RateLimit": '"pages";r=7;t=9, "api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"a;r=1";r=0;t=5'}, 5.0),
        ({"RateLimit": '"api";r=0;t="5"'}, 5.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "12"}, 12.0),
        ({"RateLimit": "default;r=0;t=5"}, 5.0),
        ({"RateLimit": '"api";r=0', "RateLimit-Policy": '"api";q=500;w=300'}, 300.0),
        ({"RateLimit": '"api";r=0', "RateLimit-Policy": '"fixed window";"api";q=5;w=30'}, 30.0),
        ({"RateLimit": '"api";r=0', "RateLimit-Policy": '"pages";q=500;w=300'}, 0.0),
        ({"RateLimit": "limit=100, remaining=0, reset=50"}, 50.0),
        ({"RateLimit": "limit=100, remaining=3, reset=50"}, 0.0),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "50"}, 50.0),
        ({"RateLimit-Remaining": "2", "RateLimit-Reset": "50"}, 0.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "50"}, 50.0),
        ({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": "50"}, 50.0),
        ({}, 0.0),
        ({"RateLimit": ""}, 0.0),
        ({"RateLimit": '"api";r=0;t=-5'}, 0.0),
        ({"RateLimit": '"api";r=x;t=5'}, 0.0),
        ({"RateLimit": '"' + "\\" * 5_000 + ";" * 5_000}, 0.0),
        ({"RateLimit": '"api";r=0;t=' + "9" * 400}, 0.0),
        ({"RateLimit-Remaining": "\u0660", "RateLimit-Reset": "50"}, 0.0),
    ],
)
def test_a_limit_that_is_used_up_says_until_when(headers: dict[str, str], seconds: float) -> None:
    small = {name.lower(): value for name, value in headers.items()}
    assert wait_of_limit(small) == seconds
    assert wait_of_failure(small) == seconds


def test_a_limit_may_be_lifted_at_a_moment() -> None:
    moment = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time() + 7200))}
    assert 7000 < wait_of_limit(moment) <= 7200
    moment["x-ratelimit-reset"] += "000"  # some count milliseconds
    assert 7000 < wait_of_limit(moment) <= 7200


def test_what_a_failure_says_wins_over_the_limit() -> None:
    assert wait_of_failure({"retry-after": "7", "ratelimit": '"api";r=0;t=55'}) == 7.0
    assert wait_of_failure({"retry-after": "soon", "ratelimit": '"api";r=0;t=55'}) == 55.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), ("1.5", 1.5), ("", 0.0), ("-3", 0.0), ("soon", 0.0), ("nan", 0.0),
     ("inf", 0.0), ("1e9", 0.0), ("9" * 400, 0.0), ("99 Foo 20x5", 0.0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_only_numbers_and_moments_are_waited_for(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_a_moment_is_waited_for() -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    assert 7000 < retry_after(format_datetime(soon, usegmt=True)) <= 7200
