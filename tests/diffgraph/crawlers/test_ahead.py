"""Files come while others are judged, a few at a time, and none is lost or mixed up."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffgraph.crawlers.ahead import FetchingAhead
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.errors import DamagedFile, ServiceUnavailable
from diffgraph.experts.expert import ExpertRef, Listing

LISTINGS = [Listing(ref=ExpertRef.parse(f"hub:{n}@1"), name=str(n)) for n in range(12)]


class SlowHub(Crawler):
    """Takes a while for each file; remembers how many lay ready at most."""

    source = "hub"

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.begun: list[str] = []
        self.lock = threading.Lock()
        self.trouble: dict[str, Exception] = {}

    def listings(self) -> Iterator[Listing | BrokenPage]:
        return iter(LISTINGS)

    def fetch(self, listing: Listing, folder: Path) -> Path:
        with self.lock:
            self.begun.append(listing.name)
        time.sleep(self.seconds)
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
    with FetchingAhead(SlowHub(), LISTINGS, staging, 3) as ahead:
        for listing in LISTINGS:
            file = ahead.fetch(listing, tmp_path / "bench")
            assert file.read_text() == listing.name
            assert file.parent == tmp_path / "bench"
    assert not list(staging.iterdir())


def test_files_come_while_one_is_judged(staging: Path, tmp_path: Path) -> None:
    hub = SlowHub(0.05)
    start = time.monotonic()
    with FetchingAhead(hub, LISTINGS[:8], staging, 4) as ahead:
        for listing in LISTINGS[:8]:
            ahead.fetch(listing, tmp_path / "bench")
            time.sleep(0.05)
    assert time.monotonic() - start < 8 * 0.1 - 0.1  # one after the other takes 0.8 s


def test_no_more_lie_ready_than_may(staging: Path, tmp_path: Path) -> None:
    hub = SlowHub(0.001)
    with FetchingAhead(hub, LISTINGS, staging, 3) as ahead:
        time.sleep(0.1)
        assert len(hub.begun) == 3
        ahead.fetch(LISTINGS[0], tmp_path / "bench")
        time.sleep(0.1)
        assert len(hub.begun) == 4


def test_trouble_comes_with_its_own_file(staging: Path, tmp_path: Path) -> None:
    hub = SlowHub()
    hub.trouble = {"1": DamagedFile("1 is half"), "3": ServiceUnavailable("the hub answers 503")}
    told = []
    with FetchingAhead(hub, LISTINGS, staging, 2) as ahead:
        for listing in LISTINGS:
            try:
                ahead.fetch(listing, tmp_path / "bench")
            except (DamagedFile, ServiceUnavailable) as error:
                told.append((listing.name, str(error)))
    assert told == [("1", "1 is half"), ("3", "the hub answers 503")]


def test_some_may_be_passed_over(staging: Path, tmp_path: Path) -> None:
    with FetchingAhead(SlowHub(), LISTINGS, staging, 2) as ahead:
        assert ahead.fetch(LISTINGS[9], tmp_path / "bench").read_text() == "9"
        assert ahead.fetch(LISTINGS[2], tmp_path / "bench").read_text() == "2"


def test_the_end_does_not_wait_for_what_is_on_its_way(staging: Path) -> None:
    hub = SlowHub(30.0)
    start = time.monotonic()
    with FetchingAhead(hub, LISTINGS, staging, 2):
        pass
    assert time.monotonic() - start < 5
