"""A list that leads nowhere, or has a page that never comes, is gone round and told."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from diffgraph.crawlers.cursor_guard import MOST_FRUITLESS
from diffgraph.crawlers.discovery import DiscoveryConfig
from tests.diffgraph.crawlers.civitai.crawls import CivitaiHome, ref
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages
from tests.servers.local_server import Reply, Request


class TestAListThatLeadsNowhere:
    """It is left, told, and read from its other end."""

    @pytest.mark.parametrize("kept", [10, 3, 0])
    def test_ever_new_cursors_to_the_same_experts_come_to_an_end(
        self, kept: int, home: CivitaiHome
    ) -> None:
        """The newest page, or a part of it, comes again and again under cursors of its own."""
        number = itertools.count()

        def again(reply: Reply) -> Reply:
            answer = json.loads(reply.body)
            items, metadata = answer["items"][:kept], {"nextCursor": f"fresh{next(number)}"}
            return Reply.json({"items": items, "metadata": metadata})

        class Stuck(CivitaiServer):
            def _list(self, request: Request) -> Reply:
                if request.get("sort") == "Oldest":
                    return super()._list(request)
                query = {**request.query, "cursor": [""]}
                return again(super()._list(dataclasses.replace(request, query=query)))

        with Stuck(pages(40)) as hub:
            report = home.discover(hub)
            assert len(hub.asked("/models")) < 3 * MOST_FRUITLESS
        assert len(home.refs) == 40
        assert [entry.reason for entry in report.broken] == [
            f"{MOST_FRUITLESS} pages one after the other brought no new expert; not read on"
        ]

    def test_cursors_that_go_back_and_forth_come_to_an_end(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        class Swinging(CivitaiServer):
            def _answer_with(self, request: Any, found: Any, cursor: str | None) -> Any:
                ends = ("2023-01-02T00:00:00Z|5", "2023-01-02T00:00:00Z|9")
                return super()._answer_with(request, found, ends[request.get("cursor") == ends[0]])

        with Swinging(pages(40)) as hub:
            report = home.discover(hub)
            assert len(hub.asked("/models")) < 30
        assert "its cursor leads back; not followed" in [entry.reason for entry in report.broken]

    def test_a_next_page_without_a_cursor_is_told(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(12))
        by_number = {"nextPage": f"{hub.url}/api/v1/models?page=2"}
        change = lambda reply: Reply.json(  # noqa: E731
            {**json.loads(reply.body), "metadata": by_number}
        )
        hub.disturb(change, path="/models", times=2)
        report = home.discover(hub)
        assert len(home.refs) == 12
        assert [entry.reason for entry in report.broken] == [
            "the list goes on, and its cursor cannot be used"
        ]


class TestACursorThatNeverAnswers:
    """Its page is read in parts, and what cannot be read is gone round."""

    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_a_cursor_that_is_always_refused_costs_no_night(
        self, status: int, home: CivitaiHome
    ) -> None:
        with Breaking(pages(40), 20, status) as hub:
            report = home.discover(hub)
            assert report.failed == ()
            assert f"it answers {status}" in report.broken[0].reason
            assert {ref(n) for n in range(1, 41)} - set(home.refs) <= {
                ref(n) for n in range(16, 26)
            }
            hub.publish(page(41))
            home.discover(hub)
        assert ref(41) in home.refs

    @pytest.mark.parametrize("status", [500, 503, 504])
    def test_one_expert_that_breaks_its_page_costs_that_expert(
        self, status: int, home: CivitaiHome
    ) -> None:
        with Breaking(pages(40), 20, status) as hub:
            report = home.discover(hub)
        assert {ref(number) for number in range(1, 41)} - {ref(20)} == set(home.refs)
        assert [entry.where for entry in report.broken] == ["the list"]
        assert f"a page never comes: {hub.url}/api/v1/models: it answers {status}" in (
            report.broken[0].reason
        )
        assert report.failed == ()

    def test_what_is_published_is_seen_night_after_night(self, home: CivitaiHome) -> None:
        with Breaking(pages(40), 20, 500) as hub:
            for night in range(41, 44):
                home.discover(hub)
                hub.publish(page(night))
                assert ref(night) not in home.refs
                home.discover(hub)
                assert ref(night) in home.refs

    def test_the_newest_page_is_read_first_when_a_crawl_goes_on(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(40))
        home.discover(hub, DiscoveryConfig(metadata_only=True, limit=15))
        assert list((home.folder / "crawls").iterdir())
        for number in range(41, 65):  # more than two pages
            hub.publish(page(number))
        hub.requests.clear()
        config = DiscoveryConfig(metadata_only=True, limit=24)
        home.discover(hub, config)
        assert {ref(number) for number in range(41, 65)} <= set(home.refs)
        home.discover(hub)
        assert len(home.refs) == 64, "and nobody is lost"


class Breaking(CivitaiServer):
    """A hub that cannot answer with one of its experts."""

    def __init__(self, models: list[dict[str, Any]], number: int, status: int) -> None:
        super().__init__(models)
        self._number, self._status = number, status

    def _answer_with(self, request: Any, found: Any, cursor: str | None) -> Reply:
        if any(entry.key[1] == self._number for entry in found):
            return Reply.json({"error": "cannot be shown"}, self._status)
        return super()._answer_with(request, found, cursor)


def test_what_lies_behind_a_page_without_a_cursor_is_read_from_the_other_end(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    hub.publish(page(20), body=b'{"id": 20, "name": "half')

    def spoil(reply: Any) -> Any:
        return type(reply)(200, reply.body[:50]) if b'"half' in reply.body else reply

    hub.disturb(spoil, path="/models", times=1000)
    report = home.discover(hub)
    assert {ref(number) for number in range(1, 41)} - {ref(20)} == set(home.refs)
    assert "not JSON" in report.broken[0].reason
    hub.publish(page(20))
    assert home.discover(hub).listed[0].ref == ref(20)


@pytest.mark.parametrize(
    "metadata",
    [None, [], {"nextCursor": ""}, {"nextPage": "http://[::1"}, {"nextPage": 7}],
    ids=lambda metadata: repr(metadata)[:20],
)  # fmt: skip
def test_a_cursor_that_is_none_ends_the_list(
    metadata: Any, home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(5))
    change = lambda reply: type(reply).json(  # noqa: E731
        {**json.loads(reply.body), "metadata": metadata}
    )
    hub.disturb(change, path="/models", times=10)
    home.discover(hub)
    assert len(home.refs) == 5


@pytest.mark.parametrize("cursor", [{}, True, 1.5, "x" * 5000, "\ud800", [None]], ids=repr)
def test_behind_a_cursor_that_cannot_be_used_the_list_is_read_from_its_other_end(
    cursor: Any, home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(12))

    def spoil(reply: Any) -> Any:
        answer = json.loads(reply.body)
        answer["metadata"]["nextCursor"] = cursor
        return type(reply).json(answer)

    hub.disturb(spoil, path="/models", times=2)
    report = home.discover(hub)
    assert len(home.refs) == 12
    assert [page.reason for page in report.broken] == [
        "the list goes on, and its cursor cannot be used"
    ]


def test_a_cursor_in_the_next_pages_address_only_is_used(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(25))

    def hide(reply: Any) -> Any:
        answer = json.loads(reply.body)
        answer["metadata"].pop("nextCursor", None)
        return type(reply).json(answer)

    hub.disturb(hide, path="/models", times=100)
    home.discover(hub)
    assert len(home.refs) == 25
