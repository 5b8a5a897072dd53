"""Files come while others are judged, a few at a time, and none is lost or mixed up."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.prefetching import PrefetchingCrawler
from diffgraph.errors import DamagedFile, ServiceUnavailable
from diffgraph.experts.expert import ExpertRef, Listing
from tests.waiting import PATIENCE, wait_for

LISTINGS = [Listing(ref=ExpertRef.parse(f"hub:{n}@1"), name=str(n)) for n in range(12)]


class Hub(Crawler):
    """Remembers whose file it began to fetch; while its gate is shut, no file arrives."""

    source = "hub"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.trouble: dict[str, Exception] = {}

    def listings(self) -> Iterator[Listing | BrokenPage]:
        return iter(LISTINGS)

    def fetch(self, listing: Listing, folder: Path) -> Path:
        with self.lock:
            self.begun.append(listing.name)
        assert self.gate.wait(PATIENCE)
        if listing.name in self.trouble:
            raise self.trouble[listing.name]
        path = folder / f"{listing.name}.safetensors"
        path.write_text(listing.name)
        return path


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    (tmp_path / "bench").mkdir()
    return tmp_path / "staging"


def test_every_file_is_given_to_who_asks_for_it(staging: Path, tmp_path: Path) -> None:
    with PrefetchingCrawler(Hub(), LISTINGS, staging, 3) as ahead:
        for listing in LISTINGS:
            file = ahead.fetch(listing, tmp_path / "bench")
            assert file.read_text() == listing.name
            assert file.parent == tmp_path / "bench"
    assert not list(staging.iterdir())


def test_files_come_while_one_is_judged(staging: Path, tmp_path: Path) -> None:
    hub = Hub()
    with PrefetchingCrawler(hub, LISTINGS[:8], staging, 4) as ahead:
        ahead.fetch(LISTINGS[0], tmp_path / "bench")
        wait_for(lambda: len(hub.begun) == 5)  # nobody has asked for these yet


def test_several_files_come_at_the_same_time(staging: Path) -> None:
    hub = Hub()
    hub.gate.clear()
    with PrefetchingCrawler(hub, LISTINGS, staging, 4):
        wait_for(lambda: len(hub.begun) == 4)
        hub.gate.set()


def test_no_more_lie_ready_than_may(staging: Path, tmp_path: Path) -> None:
    hub = Hub()
    with PrefetchingCrawler(hub, LISTINGS, staging, 3) as ahead:
        for asked, listing in enumerate(LISTINGS[:6]):
            wait_for(lambda: len(list(staging.iterdir())) == 3)
            assert len(hub.begun) == asked + 3
            ahead.fetch(listing, tmp_path / "bench")


def test_trouble_comes_with_its_own_file(staging: Path, tmp_path: Path) -> None:
    hub = Hub()
    hub.trouble = {"1": DamagedFile("1 is half"), "3": ServiceUnavailable("the hub answers 503")}
    told = []
    with PrefetchingCrawler(hub, LISTINGS, staging, 2) as ahead:
        for listing in LISTINGS:
            try:
                ahead.fetch(listing, tmp_path / "bench")
            except (DamagedFile, ServiceUnavailable) as error:
                told.append((listing.name, str(error)))
    assert told == [("1", "1 is half"), ("3", "the hub answers 503")]


def test_some_may_be_passed_over(staging: Path, tmp_path: Path) -> None:
    with PrefetchingCrawler(Hub(), LISTINGS, staging, 2) as ahead:
        assert ahead.fetch(LISTINGS[9], tmp_path / "bench").read_text() == "9"
        assert ahead.fetch(LISTINGS[2], tmp_path / "bench").read_text() == "2"


def test_the_end_does_not_wait_for_what_is_on_its_way(staging: Path) -> None:
    hub = Hub()
    hub.gate.clear()
    with PrefetchingCrawler(hub, LISTINGS, staging, 2):
        wait_for(lambda: len(hub.begun) == 2)
    assert not list(staging.iterdir())
    hub.gate.set()
