"""Whatever a server answers costs at most what it answers about."""

from collections.abc import Callable

import pytest

from diffgraph.errors import ServiceUnavailable
from tests.diffgraph.crawlers.civitai.crawls import CivitaiHome, ref
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages

TROUBLE: dict[str, Callable[[CivitaiServer], None]] = {
    "busy": lambda hub: hub.fail(429, retry_after=0.01, times=2),
    "down": lambda hub: hub.fail(503, times=2),
    "broken": lambda hub: hub.fail(500),
    "cut": lambda hub: hub.cut(at=500, times=2),
    "silent": lambda hub: hub.stall(at=500),
    "half an answer": lambda hub: hub.garble(),
    "a date to wait for": lambda hub: hub.disturb(
        lambda reply: type(reply).json({}, 429, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_what_passes_costs_nobody(
    name: str, home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    hub.before_list(2, lambda: TROUBLE[name](hub))
    report = home.discover(hub, **({"silence": 1.0} if name == "silent" else {}))
    assert len(home.refs) == 40
    assert report.failed == report.broken == ()
    assert report.is_whole


def test_a_hub_that_is_down_says_so_in_one_line(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(10))
    hub.fail(503, times=100)
    with pytest.raises(ServiceUnavailable, match="503 Service Unavailable, after 3 tries") as error:
        home.discover(hub)
    assert "\n" not in str(error.value)


def test_an_answer_that_never_is_json_costs_only_the_page_that_spoils_it(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    hub.publish(page(20), body=b'{"id": 20, "name": "half')
    report = home.discover(hub)
    assert {ref(number) for number in range(1, 41)} - {ref(20)} == set(home.refs)
    (broken,) = report.broken
    assert broken.where.startswith("the list at ")
    assert "not JSON" in broken.reason


ANSWERS = (
    b"", b"null", b"[]", b"{}", b'{"items": null}', b'{"items": {}}', b"<html>Sign in</html>",
    b"[" * 100_000, b'{"items": ' + b"9" * 10_000 + b"}", b"\xff\xfe",
)  # fmt: skip


@pytest.mark.parametrize("body", ANSWERS, ids=lambda body: repr(body)[:20])
def test_a_server_that_is_no_hub_is_one_line(
    body: bytes, home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(5))
    hub.disturb(lambda reply: type(reply)(200, body), times=1000)
    with pytest.raises(ServiceUnavailable, match=r"JSON|no list of items") as error:
        home.discover(hub)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_an_answer_that_is_too_large_is_asked_for_in_parts(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(page(number, description="<p>x</p>" * 4000) for number in range(1, 31))
    report = home.discover(hub, largest_answer=100_000)
    assert len(home.refs) == 30
    assert report.broken == ()


def test_a_slow_drip_is_not_waited_for(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(10))
    hub.stall(at=500, times=100)
    with pytest.raises(ServiceUnavailable, match="no whole answer within"):
        home.discover(hub, longest_answer=0.1, tries=2)
