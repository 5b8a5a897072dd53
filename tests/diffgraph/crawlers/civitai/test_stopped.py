"""A crawl that is stopped, or killed, goes on where it was."""

import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from diffgraph.crawlers.discovery import DiscoveryConfig, discover
from diffgraph.experts.library import Library
from tests.diffgraph.crawlers.civitai.crawls import EMOJI64, CivitaiHome
from tests.diffgraph.crawlers.home import QUICK
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import pages
from tests.waiting import wait_for

ROOT = Path(__file__).parents[4]


class TestACrawlThatIsStopped:
    """It goes on where it was."""

    def test_goes_on_behind_the_pages_that_were_dealt_with(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
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
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
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
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
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
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
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
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
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
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(100))
        since = datetime(2023, 1, 4, tzinfo=UTC)  # page 72; one an hour
        report = home.discover(hub, DiscoveryConfig(metadata_only=True, since=since))
        assert min(int(name[8:].split("@")[0]) for name in home.refs) == 72
        assert len(hub.asked("/models")) <= 5
        assert not report.is_whole
        assert report.retired == ()


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
