"""A list that leads nowhere, or has a page that never comes, is gone round and told."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffgraph.crawlers.cursor_guard import MOST_FRUITLESS
from diffgraph.crawlers.huggingface import HuggingFaceCrawler
from diffgraph.crawlers.web import Web
from diffgraph.errors import ServiceUnavailable
from tests.diffgraph.crawlers.huggingface.crawls import OLD_BASE, QUICK, SD15, HuggingFaceHome, many
from tests.servers.huggingface import BASE, HuggingFaceServer, repository
from tests.servers.local_server import Reply, Request


class Stuck(HuggingFaceServer):
    """Its lists go on for ever, to the same repositories or to none, under ever new cursors."""

    kept = 4

    def _list(self, request: Request) -> Reply:
        query = {name: values for name, values in request.query.items() if name != "cursor"}
        items = json.loads(super()._list(replace(request, query=query)).body)[: self.kept]
        link = f'<{self.url}/api/models?cursor=fresh{len(self.requests)}>; rel="next"'
        return Reply.json(items, Link=link)


@pytest.mark.parametrize("kept", [4, 0])
def test_a_list_that_goes_on_for_ever_is_left_and_told(kept: int, home: HuggingFaceHome) -> None:
    with Stuck(many(6)) as hub:
        hub.kept = kept
        report = home.discover(hub)
        lists = len(hub.asked("/api/models"))
    assert len(home.names) == kept
    assert lists <= 4 * (MOST_FRUITLESS + 2) + 10, "two names of the base, two relations"
    assert report.broken[0].reason == (
        f"{MOST_FRUITLESS} pages one after the other brought no new expert; not read on"
    )


@pytest.mark.parametrize(
    "link",
    ['<https://hub.example/api/models?p=2>; rel="next"', '<http://[::1>; rel="next"'],
)
def test_a_link_without_a_cursor_is_told(
    link: str, home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(3))
    hub.disturb(lambda reply: replace(reply, headers={**reply.headers, "Link": link}), path="api")
    report = home.discover(hub)
    assert len(home.names) == 3
    assert [entry.reason for entry in report.broken] == [
        "it goes on, and its cursor cannot be used"
    ]


class Breaking(HuggingFaceServer):
    """It cannot list one of its repositories."""

    def __init__(self, repositories: list[dict[str, Any]], status: int, begun: bool = True) -> None:
        super().__init__(repositories)
        self._status, self._begun = status, begun

    def _list(self, request: Request) -> Reply:
        reply = super()._list(request)
        is_meant = b"maker/new6" in reply.body and (self._begun <= bool(request.get("cursor")))
        return Reply.json({}, self._status) if is_meant else reply


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
def test_what_lies_behind_a_page_that_never_comes_is_read_in_another_order(
    status: int, home: HuggingFaceHome
) -> None:
    found = [
        {**entry, "lastModified": f"2024-03-{30 - place}", "createdAt": f"2024-01-{11 + place}"}
        for place, entry in enumerate(many(14))
    ]
    with Breaking([*found, repository("maker/old", OLD_BASE)], status) as hub:
        report = home.discover(hub)
    wanted = {*(f"maker/new{number}" for number in range(14) if number != 6), "maker/old"}
    assert set(home.names) == wanted
    assert {entry.where for entry in report.broken} == {f"the list of {BASE}"}
    assert f"not read on: {hub.url}/api/models: it answers {status}" in report.broken[0].reason
    assert report.failed == report.retired == ()


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_list_that_never_begins_costs_no_other_list(status: int, home: HuggingFaceHome) -> None:
    with HuggingFaceServer([repository("maker/a"), repository("maker/old", OLD_BASE)]) as hub:
        home.discover(hub)
    with Breaking(
        [repository("maker/new6"), repository("maker/old2", OLD_BASE)], status, False
    ) as hub:
        report = home.discover(hub)
    assert "maker/old2" in home.names
    assert [entry.where for entry in report.broken] == [f"the list of {BASE}"]
    assert report.retired == (), "who would have been in it has not gone"
    assert not report.is_whole


def test_a_hub_that_is_down_says_so_in_one_line(home: HuggingFaceHome) -> None:
    with HuggingFaceServer([repository("maker/a")]) as hub:
        hub.fail(503, times=99)
        with pytest.raises(ServiceUnavailable, match="it answers 503"):
            home.discover(hub)


def test_a_hub_that_goes_down_is_not_asked_for_each_expert_it_did_not_list(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(8))
    home.discover(hub)
    hub.repositories = {name: {**one, "tags": []} for name, one in hub.repositories.items()}
    hub.fail(500, path="/api/models/maker", times=999)
    hub.requests.clear()
    report = home.discover(hub)
    assert len(hub.asked("/api/models/maker")) <= QUICK.tries
    assert report.retired == ()
    assert not report.is_whole


def test_a_page_that_is_too_large_is_read_in_parts(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(many(9))
    whole = hub.answer(Request("GET", "/api/models", {"limit": ["4"]}, {})).body
    small = QUICK.model_copy(update={"largest_answer": len(whole) // 3})
    with HuggingFaceCrawler(home.library, SD15, Web(hub.url, config=small)) as crawler:
        assert len(list(crawler.listings())) == 9
    assert {request.get("limit") for request in hub.asked("/api/models")} >= {"4", "1"}
