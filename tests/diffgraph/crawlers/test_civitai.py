"""A live hub is read to its end: each expert once, whatever the hub does meanwhile."""

import dataclasses
import inspect
import itertools
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from diffgraph.crawlers.civitai import CivitaiCrawler
from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.crawlers.course import MOST_FRUITLESS
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.discovery import DiscoveryConfig, DiscoveryReport, discover
from diffgraph.crawlers.web import WebConfig
from diffgraph.errors import DiffgraphError, InputError, ServiceError, ServiceUnavailable
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages
from tests.servers.local_server import Reply, Request
from tests.waiting import wait_for

EMOJI64 = get_family("emoji64")
ROOT = Path(__file__).parents[3]
QUICK = WebConfig(page_size=10, first_wait=0.001, longest_wait=0.002, silence=600.0, tries=3)
TOKEN = "a-secret-token"


class Home:
    """A home folder, and crawls into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def library(self) -> Library:
        return Library(self.folder, bundled=())

    @property
    def refs(self) -> list[str]:
        return [expert.ref for expert in self.library.experts()]

    def crawler(self, hub: CivitaiServer, **options: Any) -> CivitaiCrawler:
        since = options.pop("since", None)
        token = options.pop("token", None)
        client = CivitaiClient(
            hub.url, token and SecretStr(token), QUICK.model_copy(update=options)
        )
        return CivitaiCrawler(self.folder, EMOJI64, client, since=since)

    def discover(
        self, hub: CivitaiServer, config: DiscoveryConfig | None = None, **options: Any
    ) -> DiscoveryReport:
        config = config or DiscoveryConfig(metadata_only=True)
        with self.crawler(hub, since=config.since, **options) as crawler:
            return discover(crawler, self.library, EMOJI64, config=config)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def serve() -> Iterator[Callable[..., CivitaiServer]]:
    """Start a hub that ends with the test."""
    started: list[CivitaiServer] = []

    def start(*arguments: Any, **options: Any) -> CivitaiServer:
        started.append(CivitaiServer(*arguments, **options).__enter__())
        return started[-1]

    yield start
    for server in started:
        server.__exit__()


def ref(number: int) -> str:
    return f"civitai:{number}@{number * 10 + 1}"


def reasons(report: DiscoveryReport) -> dict[str, str]:
    return {expert.ref: expert.reason for expert in (*report.rejected, *report.registered_only)}


def test_every_expert_is_known_and_every_refusal_has_its_reason(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(100))
    report = home.discover(hub)
    refused = reasons(report)
    assert len(report.listed) == 90
    assert report.broken == report.failed == ()
    assert report.is_whole
    assert {
        int(name[8:].split("@")[0]): reason.split(":")[0] for name, reason in refused.items()
    } == {
        5: "marked as not safe for work",
        15: "marked as drawing a real person",
        25: "its page forbids derivatives, and a merge is one",
        35: "the hub's pickle scan says 'Danger', not 'Success'",
        45: "offers only PickleTensor files, which could run code; expected SafeTensor",
        75: "offers no file (early access, or taken down)",
        85: "offers no file (early access, or taken down)",
        95: "the hub's virus scan says 'Pending', not 'Success'",
    }
    asked = hub.asked("/models")[0].query
    assert set(asked["types"]) == {"Checkpoint", "LORA", "LoCon", "DoRA"}
    assert asked["baseModels"] == ["emoji64"], "the hub is asked for this family only"


def test_a_second_run_with_nothing_new_changes_nothing(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    home.discover(hub)
    table = home.folder / "library" / "experts.jsonl"
    before = table.read_bytes()
    report = home.discover(hub)
    assert len(report.unchanged) == len(home.refs) == 40
    assert table.read_bytes() == before


def test_few_downloads_and_low_ratings_are_refused_when_asked(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, version={"stats": {"downloadCount": 99}}),
            page(2, version={"stats": {"downloadCount": 100}},
                 stats={"rating": 3.9, "ratingCount": 5}),
            page(3, version={"stats": {"downloadCount": 100}},
                 stats={"thumbsUpCount": 90, "thumbsDownCount": 10}),
            page(4, version={"stats": {"downloadCount": 500}}, stats={}),
        ]
    )  # fmt: skip
    config = DiscoveryConfig(metadata_only=True, minimum_downloads=100, minimum_rating=4.0)
    assert reasons(home.discover(hub, config)) == {
        ref(1): "downloaded 99 times, fewer than 100",
        ref(2): "rated 3.9, expected 4.0 at least",
        ref(4): "nobody rated it, expected 4.0 at least",
    }
    assert home.library.get(ref(3)).status == "registered_only"


class TestAHubThatChangesWhileItIsRead:
    """Nobody who stays is lost, nobody comes twice."""

    @pytest.mark.parametrize("paging", ["keyset", "offset"])
    def test_what_is_published_and_withdrawn_meanwhile(
        self, paging: str, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(60), paging=paging)
        hub.before_list(2, lambda: [hub.publish(page(number)) for number in (101, 102, 103)])
        hub.before_list(4, lambda: [hub.unpublish(number) for number in (60, 59, 58, 57)])
        report = home.discover(hub)
        stayed = {ref(number) for number in (*range(1, 57), 101, 102, 103)} - {
            ref(55)  # the hub does not list another base model
        }
        assert stayed <= set(home.refs)
        assert len(home.refs) == len(set(home.refs))
        seen = [expert.ref for group in (report.listed, report.rejected) for expert in group]
        assert len(seen) == len(set(seen))

    def test_who_has_gone_is_retired_and_who_was_only_not_shown_is_not(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(30))
        home.discover(hub)
        hub.unpublish(7)
        hub.publish(page(8, nsfw=True), body=json.dumps(page(8, nsfw=True)).encode())
        hub.publish({**page(9), "type": "Workflows"})  # no longer in the list we ask for
        report = home.discover(hub)
        assert [expert.ref for expert in report.retired] == [ref(7)]
        assert home.library.get(ref(9)).reason.startswith("'Workflows' is no set of weights")

    def test_a_new_version_is_found(self, home: Home, serve: Callable[..., CivitaiServer]) -> None:
        hub = serve(pages(12))
        home.discover(hub)
        content = page(3)
        newer = {**content["modelVersions"][0], "id": 999, "publishedAt": "2024-05-05T00:00:00Z"}
        hub.publish({**content, "modelVersions": [newer, *content["modelVersions"]]})
        report = home.discover(hub)
        assert [expert.ref for expert in report.listed] == ["civitai:3@999"]

    def test_a_cursor_that_skips_costs_nobody(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        """As civitai/civitai#1372: the first expert behind a page is dropped."""

        class Skipping(CivitaiServer):
            def _start(self, cursor: str, newest_first: bool) -> int | None:
                start = super()._start(cursor, newest_first)
                return start - 1 if start and cursor and newest_first else start

        with Skipping(pages(50)) as hub:
            home.discover(hub)
        assert {ref(number) for number in range(1, 51)} <= set(home.refs)

    def test_a_cursor_that_leads_back_ends_the_walk(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        class Circling(CivitaiServer):
            def _answer_with(self, request: Any, found: Any, cursor: str | None) -> Any:
                return super()._answer_with(request, found, cursor and "2023-01-02T00:00:00Z|5")

        with Circling(pages(40)) as hub:
            report = home.discover(hub)
        assert [entry.reason for entry in report.broken] == ["its cursor leads back; not followed"]

    def test_empty_pages_in_between_do_not_end_a_walk(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(40))
        empty = lambda reply: type(reply).json(  # noqa: E731
            {"items": [], "metadata": json.loads(reply.body)["metadata"]}
        )
        hub.disturb(empty, path="/models", times=2)
        home.discover(hub)
        assert len(home.refs) == 40, "what the first walk missed, the second one brings"


class TestAListThatLeadsNowhere:
    """It is left, told, and read from its other end."""

    @pytest.mark.parametrize("kept", [10, 3, 0])
    def test_ever_new_cursors_to_the_same_experts_come_to_an_end(
        self, kept: int, home: Home
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
            f"{MOST_FRUITLESS} pages one after the other brought nobody new; not read on"
        ]

    def test_cursors_that_go_back_and_forth_come_to_an_end(
        self, home: Home, serve: Callable[..., CivitaiServer]
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
        self, home: Home, serve: Callable[..., CivitaiServer]
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
    def test_a_cursor_that_is_always_refused_costs_no_night(self, status: int, home: Home) -> None:
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
        self, status: int, home: Home
    ) -> None:
        with Breaking(pages(40), 20, status) as hub:
            report = home.discover(hub)
        assert {ref(number) for number in range(1, 41)} - {ref(20)} == set(home.refs)
        assert [entry.where for entry in report.broken] == ["the list"]
        assert f"a page never comes: {hub.url}/api/v1/models: it answers {status}" in (
            report.broken[0].reason
        )
        assert report.failed == ()

    def test_what_is_published_is_seen_night_after_night(self, home: Home) -> None:
        with Breaking(pages(40), 20, 500) as hub:
            for night in range(41, 44):
                home.discover(hub)
                hub.publish(page(night))
                assert ref(night) not in home.refs
                home.discover(hub)
                assert ref(night) in home.refs

    def test_the_newest_page_is_read_first_when_a_crawl_goes_on(
        self, home: Home, serve: Callable[..., CivitaiServer]
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


class TestACrawlThatIsStopped:
    """It goes on where it was."""

    def test_goes_on_behind_the_pages_that_were_dealt_with(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(60))

        def stop(done: int, name: str) -> None:
            if done == 35:
                raise KeyboardInterrupt

        with home.crawler(hub) as crawler, pytest.raises(KeyboardInterrupt):
            discover(
                crawler,
                home.library,
                EMOJI64,
                stop,
                config=DiscoveryConfig(metadata_only=True),
            )
        assert len(home.refs) == 35
        hub.requests.clear()
        report = home.discover(hub)
        newest, first = hub.asked("/models")[:2]
        assert not newest.get("cursor")
        assert first.get("cursor"), "it does not begin anew"
        assert report.read_before == 30, "three pages of ten were whole"
        assert len(home.refs) == 59
        assert len(report.listed) + len(report.rejected) + len(report.registered_only) == 24
        assert report.retired == ()
        assert not list((home.folder / "crawls").iterdir()), "the next crawl begins anew"

    def test_a_torn_journal_costs_a_page(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(40))
        with home.crawler(hub) as crawler:
            entries = crawler.listings()
            for _ in islice(entries, 25):
                pass
            crawler.keep()
        (journal,) = (home.folder / "crawls").iterdir()
        journal.write_bytes(journal.read_bytes()[:-10])
        with home.crawler(hub) as crawler:
            assert len(crawler.read_before) == 10
            assert len(list(crawler.listings())) == 30
            crawler.keep()
            assert all(json.loads(line) for line in journal.read_text().splitlines())

    def test_a_cursor_the_hub_forgot_begins_anew(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(40))
        with home.crawler(hub) as crawler:
            for _ in islice(crawler.listings(), 25):
                pass
            crawler.keep()
        (journal,) = (home.folder / "crawls").iterdir()
        journal.write_text(journal.read_text().replace("2023-", "gone-").replace("|", "/"))
        report = home.discover(hub)
        assert len(home.refs) == 20, "of those read before, discovery has seen no listing"
        assert report.read_before == 20

    def test_enough_is_enough_and_the_next_run_goes_on(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(60))
        config = DiscoveryConfig(metadata_only=True, limit=12)
        first = home.discover(hub, config)
        assert len(hub.asked("/models")) <= 3, "no more was read than was needed"
        assert not first.is_whole
        second = home.discover(hub, config)
        assert len(home.refs) == 24
        assert first.retired == second.retired == ()

    def test_a_hub_that_fails_half_way_is_told_and_gone_on_with(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(60))
        hub.before_list(4, lambda: hub.fail(503, times=2 * QUICK.tries))  # anywhere in the list
        report = home.discover(hub)
        assert [entry.where for entry in report.failed] == ["civitai, after 30 listings"]
        assert "503" in report.failed[0].reason
        assert not report.is_whole
        again = home.discover(hub)
        assert again.read_before == 30
        assert len(home.refs) == 59

    def test_nothing_older_is_read_than_was_asked_for(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(100))
        since = datetime(2023, 1, 4, tzinfo=UTC)  # page 72; one an hour
        report = home.discover(hub, DiscoveryConfig(metadata_only=True, since=since))
        assert min(int(name[8:].split("@")[0]) for name in home.refs) == 72
        assert len(hub.asked("/models")) <= 5
        assert not report.is_whole
        assert report.retired == ()


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
    name: str, home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    hub.before_list(2, lambda: TROUBLE[name](hub))
    report = home.discover(hub, **({"silence": 1.0} if name == "silent" else {}))
    assert len(home.refs) == 40
    assert report.failed == report.broken == ()
    assert report.is_whole


def test_a_hub_that_is_down_says_so_in_one_line(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(10))
    hub.fail(503, times=100)
    with pytest.raises(ServiceUnavailable, match="503 Service Unavailable, after 3 tries") as error:
        home.discover(hub)
    assert "\n" not in str(error.value)


def test_an_answer_that_never_is_json_costs_only_the_page_that_spoils_it(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    hub.publish(page(20), body=b'{"id": 20, "name": "half')
    report = home.discover(hub)
    assert {ref(number) for number in range(1, 41)} - {ref(20)} == set(home.refs)
    (broken,) = report.broken
    assert broken.where.startswith("the list at ")
    assert "not JSON" in broken.reason


def test_what_lies_behind_a_page_without_a_cursor_is_read_from_the_other_end(
    home: Home, serve: Callable[..., CivitaiServer]
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


ANSWERS = (
    b"", b"null", b"[]", b"{}", b'{"items": null}', b'{"items": {}}', b"<html>Sign in</html>",
    b"[" * 100_000, b'{"items": ' + b"9" * 10_000 + b"}", b"\xff\xfe",
)  # fmt: skip


@pytest.mark.parametrize("body", ANSWERS, ids=lambda body: repr(body)[:20])
def test_a_server_that_is_no_hub_is_one_line(
    body: bytes, home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(5))
    hub.disturb(lambda reply: type(reply)(200, body), times=1000)
    with pytest.raises(ServiceUnavailable, match=r"JSON|no list of items") as error:
        home.discover(hub)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "metadata",
    [None, [], {"nextCursor": ""}, {"nextPage": "http://[::1"}, {"nextPage": 7}],
    ids=lambda metadata: repr(metadata)[:20],
)  # fmt: skip
def test_a_cursor_that_is_none_ends_the_list(
    metadata: Any, home: Home, serve: Callable[..., CivitaiServer]
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
    cursor: Any, home: Home, serve: Callable[..., CivitaiServer]
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
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(25))

    def hide(reply: Any) -> Any:
        answer = json.loads(reply.body)
        answer["metadata"].pop("nextCursor", None)
        return type(reply).json(answer)

    hub.disturb(hide, path="/models", times=100)
    home.discover(hub)
    assert len(home.refs) == 25


def test_an_answer_that_is_too_large_is_asked_for_in_parts(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(page(number, description="<p>x</p>" * 4000) for number in range(1, 31))
    report = home.discover(hub, largest_answer=100_000)
    assert len(home.refs) == 30
    assert report.broken == ()


def test_a_slow_drip_is_not_waited_for(home: Home, serve: Callable[..., CivitaiServer]) -> None:
    hub = serve(pages(10))
    hub.stall(at=500, times=100)
    with pytest.raises(ServiceUnavailable, match="no whole answer within"):
        home.discover(hub, longest_answer=0.1, tries=2)


class TestTokens:
    """They go to the hub and nowhere else."""

    def test_an_expired_token_is_told_and_the_list_read_without_it(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(15), tokens=["another"])
        report = home.discover(hub, token=TOKEN)
        assert len(home.refs) == 15
        (told,) = report.broken
        assert told.where == "the token"
        assert "401" in told.reason
        assert "expired" in told.reason
        assert TOKEN not in told.reason

    def test_a_token_is_in_no_message_log_or_file(
        self, home: Home, serve: Callable[..., CivitaiServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        hub = serve(pages(15), tokens=[TOKEN])
        hub.fail(503)
        home.discover(hub, token=TOKEN)
        assert {request.token for request in hub.requests} == {TOKEN}
        hub.fail(503, times=100)
        with pytest.raises(ServiceError) as error:
            home.discover(hub, token=TOKEN)
        said = [caplog.text, repr(error.value), str(error.value), repr(error.value.__cause__)]
        said += [path.read_text() for path in home.folder.rglob("*") if path.is_file()]
        assert not [text for text in said if TOKEN in text]

    def test_a_redirect_to_another_host_takes_no_token_along(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub, elsewhere = serve(pages(15), tokens=[TOKEN]), serve(pages(15))
        leave = lambda reply: type(reply)(  # noqa: E731
            302, b"", {"Location": f"{elsewhere.url}/api/v1/models"}
        )
        hub.disturb(leave)
        home.discover(hub, token=TOKEN)
        assert elsewhere.requests
        assert {request.token for request in elsewhere.requests} == {""}

    def test_the_address_of_the_next_page_is_not_followed(
        self, home: Home, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub, elsewhere = serve(pages(25), tokens=[TOKEN]), serve(pages(25))
        hub._host = elsewhere.url
        home.discover(hub, token=TOKEN)
        assert len(home.refs) == 25
        assert not elsewhere.requests

    @pytest.mark.parametrize(
        "url",
        ["", "ftp://host", "http://", "file:///etc", "https://name:word@host", "http://host:x",
         "http://[::1"],
    )  # fmt: skip
    def test_an_address_that_cannot_be_used_is_told_without_its_secrets(self, url: str) -> None:
        with pytest.raises(InputError, match="DIFFGRAPH_CIVITAI_URL") as error:
            CivitaiClient(url)
        assert "word@" not in str(error.value)


STRANGE: dict[str, Any] = {
    "a huge description": page(1, description="<p>" + "x" * 3_000_000),
    "emoji and right to left": page(1, name="🦊\u202e مصباح \x00\x1b[31m"),
    "a file name with a path": page(1, file={"name": "../../etc/passwd.safetensors"}),
    "a negative size": page(1, file={"sizeKB": -5}),
    "unknown enums": page(1, file={"metadata": {"format": "Quantum", "size": 7, "fp": []}}),
    "an unknown type": page(1, type="Telepathy"),
    "no versions": page(1, modelVersions=[]),
    "versions without files": page(1, version={"files": None}),
    "nothing but an id": {"id": 1},
    "an id twice": page(1, modelVersions=[page(1)["modelVersions"][0]] * 2),
    "a version without an id": page(1, modelVersions=[{}, page(1)["modelVersions"][0]]),
    "an address of a file elsewhere": page(1, file={"downloadUrl": "file:///etc/passwd"}),
    "an address that is none": page(1, file={"downloadUrl": "http://[::1"}),
    "an id that is no text": {**page(1), "id": "\ud800"},
    "a level of nonsense": page(1, nsfwLevel="much", minor="perhaps", poi=3),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_page_is_counted_and_the_others_are_read(
    name: str, home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(3))
    hub.publish(page(1, type="LORA"), body=json.dumps(STRANGE[name]).encode())
    report = home.discover(hub)
    assert {ref(2), ref(3)} <= set(home.refs)
    told = [*report.broken, *report.rejected, *report.listed, *report.registered_only]
    assert len(told) == 3 + (name in {"an id twice", "a version without an id"})
    assert all(entry.reason and "\n" not in entry.reason for entry in told)


def test_a_listing_is_completed_as_the_hub_means_it(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, file={"downloadUrl": None}),
            page(2, file={"downloadUrl": "/api/download/models/21"}),
            page(3, file={"pickleScanResult": None}),
        ]
    )
    with home.crawler(hub) as crawler:
        found = {
            entry.ref.model: entry for entry in crawler.listings() if isinstance(entry, Listing)
        }
    assert found["1"].file.url == f"{hub.url}/api/download/models/11"
    assert found["2"].file.url == f"{hub.url}/api/download/models/21"
    assert found["3"].file.pickle_scan == "missing"
    assert found["1"].page_url == f"{hub.url}/models/1"


def test_what_can_be_told_from_a_page_costs_no_download(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, version={"baseModelType": "Inpainting"}),
            page(2, version={"usageControl": "InternalGeneration"}),
            page(3, file={"name": "model.ckpt", "metadata": {}}),
        ]
    )
    assert reasons(home.discover(hub)) == {
        ref(1): "made for 'emoji64 Inpainting', not for 'emoji64'",
        ref(2): "offers no file (early access, or taken down)",
        ref(3): "offers only .ckpt files, which could run code",
    }


def test_explicit_example_images_are_left_out(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    explicit = [{"nsfw": "X"}, {"nsfw": "Mature"}, {"nsfw": True}, {"nsfwLevel": 8}, {"nsfw": "x"}]
    marks = [*explicit, {"nsfw": "Soft"}, {"nsfw": "None"}, {"nsfwLevel": 2}]
    images = [{"url": f"http://h/{place}", **mark} for place, mark in enumerate(marks)]
    hub = serve([page(1, version={"images": images})])
    home.discover(hub)
    shown = [image.url for image in home.library.listing(ref(1)).images]
    assert shown == ["http://h/5", "http://h/6", "http://h/7"]


def test_a_file_is_downloaded_checked_and_admitted(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    import hashlib

    import torch
    from safetensors.torch import save

    layer = "unet.mid.to_q"
    data = save(
        {f"{layer}.lora_A.weight": torch.ones(1, 4), f"{layer}.lora_B.weight": torch.ones(6, 1)}
    )
    sums = {"SHA256": hashlib.sha256(data).hexdigest()}
    hub = serve(
        [page(1, file={"hashes": sums}), page(2)],
        files={11: data, 21: data},
        tokens=[TOKEN],
        private=True,
    )
    with home.crawler(hub, token=TOKEN) as crawler:
        report = discover(
            crawler, home.library, EMOJI64, parameters={f"{layer}.weight": torch.ones(6, 4)}
        )
    assert [expert.ref for expert in report.new] == [ref(1)]
    assert "SHA-256" in reasons(report)[ref(2)], "its hash is another than its page says"
    assert {request.token for request in hub.storage.requests} == {""}


class TestTheClient:
    """The other questions that Civitai answers."""

    @pytest.fixture
    def hub(self, serve: Callable[..., CivitaiServer]) -> CivitaiServer:
        return serve(pages(150))

    def ask(self, hub: CivitaiServer, question: Callable[[CivitaiClient], Any]) -> Any:
        import asyncio

        async def do() -> Any:
            client = CivitaiClient(hub.url, config=QUICK)
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(do())

    def test_versions_by_id_and_by_hash(self, hub: CivitaiServer) -> None:
        version = page(7)["modelVersions"][0]
        sha256 = version["files"][0]["hashes"]["SHA256"]
        for question in (
            lambda client: client.version("71"),
            lambda client: client.by_hash(sha256.lower()),
            lambda client: client.by_hash(version["files"][0]["hashes"]["AutoV2"]),
        ):
            assert self.ask(hub, question)["modelId"] == 7

    def test_many_hashes_are_asked_for_a_hundred_at_a_time(self, hub: CivitaiServer) -> None:
        sums = [page(n)["modelVersions"][0]["files"][0]["hashes"]["SHA256"] for n in range(1, 151)]
        found = self.ask(hub, lambda client: client.by_hashes([*sums, "0" * 64]))
        assert [version["modelId"] for version in found] == [n for n in range(1, 151) if n != 75]
        assert [len(json.loads(r.body)) for r in hub.asked("by-hash")] == [100, 51]

    def test_images_come_with_their_prompts(self, hub: CivitaiServer) -> None:
        images = self.ask(hub, lambda client: client.images("71"))
        assert all(image["meta"]["prompt"] for image in images)

    def test_what_is_not_there_is_told(self, hub: CivitaiServer) -> None:
        with pytest.raises(DiffgraphError, match="404 Not Found"):
            self.ask(hub, lambda client: client.model("99999"))

    def test_requests_keep_their_distance(self, hub: CivitaiServer) -> None:
        import asyncio

        async def three() -> float:
            client = CivitaiClient(hub.url, config=WebConfig(requests_per_minute=1200))
            start = time.monotonic()
            await asyncio.gather(*(client.model("1") for _ in range(4)))
            await client.close()
            return time.monotonic() - start

        assert asyncio.run(three()) >= 0.15, "four requests are three distances of 50 ms apart"


def test_an_expert_that_is_twice_in_an_answer_is_told_and_kept_once(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(4))
    twice = json.dumps(page(2)).encode()
    hub.publish(page(2), body=twice + b"," + twice)
    report = home.discover(hub)
    assert home.refs == [ref(number) for number in range(1, 5)]
    told = BrokenPage(where="models/2", reason=f"{ref(2)} is listed twice")
    assert report.broken == (told,)


def test_a_broken_page_is_told_once_though_it_is_read_twice(
    home: Home, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve([*pages(5), {"id": 9, "type": "LORA", "modelVersions": [{"baseModel": "emoji64"}]}])
    report = home.discover(hub)
    assert report.broken == (
        BrokenPage(where="models/9", reason="page 9 has no version with an id"),
    )


def crawl(url: str, home: Path) -> None:
    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.civitai_client import CivitaiClient
    from diffgraph.crawlers.discovery import DiscoveryConfig, discover
    from diffgraph.families import get_family

    family = get_family("emoji64")
    with CivitaiCrawler(home, family, CivitaiClient(url)) as crawler:
        discover(crawler, Library(home), family, config=DiscoveryConfig(metadata_only=True))


def test_a_crawl_that_is_killed_loses_and_doubles_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with CivitaiServer(pages(3000)) as hub:
        program = f"{inspect.getsource(crawl)}\ncrawl(sys.argv[1], Path(sys.argv[2]))"
        imports = (
            "import sys; from pathlib import Path; from diffgraph.experts.library import Library"
        )
        command = [sys.executable, "-c", f"{imports}\n{program}", hub.url, str(home)]
        table = home / "library" / "experts.jsonl"
        run = subprocess.Popen(command, cwd=ROOT)
        wait_for(lambda: table.exists() and table.stat().st_size > 200_000)
        run.send_signal(signal.SIGKILL)
        run.wait()
        before = len(Library(home).experts())
        assert 0 < before < 2940
        hub.requests.clear()
        crawl(hub.url, home)
        assert hub.asked("/models")[1].get("cursor"), (
            "behind the newest page it goes on where it was"
        )
    lines = [json.loads(line)["ref"] for line in table.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 2940
