"""Files come behind the pages, none twice, and none is forgotten by a run that was stopped."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import SecretStr
from safetensors.torch import save

from diffgraph.crawlers.civitai import CivitaiCrawler
from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.crawlers.discovery import Discovery, DiscoveryConfig, discover
from diffgraph.crawlers.downloads import DownloadConfig, Downloader
from diffgraph.crawlers.web import WebConfig
from diffgraph.crawlers.weights import FAILURES_IN_A_ROW
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page

EMOJI64 = get_family("emoji64")
LAYER = "unet.mid.to_q"
PARAMETERS = {f"{LAYER}.weight": torch.ones(6, 4)}
TOKEN = "a-secret-token"
COUNT = 12
QUICK = WebConfig(page_size=5, first_wait=0.001, longest_wait=0.002, tries=2)
FAST = DownloadConfig(tries=2, first_wait=0.001, longest_wait=0.002, spare_bytes=0)


def weights(number: int) -> bytes:
    down = torch.full((1, 4), number / 10)
    return save({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": torch.ones(6, 1)})


def page_with_file(number: int, **changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(weights(number)).hexdigest()
    return page(number, file={"hashes": {"SHA256": sha256}}, type="LORA", **changes)


@pytest.fixture
def hub() -> Iterator[CivitaiServer]:
    numbers = range(1, COUNT + 1)
    files = {number * 10 + 1: weights(number) for number in numbers}
    models = [page_with_file(number) for number in numbers]
    with CivitaiServer(models, files=files, tokens=[TOKEN], private=True) as server:
        yield server


class Home:
    """A home folder, and looks at a hub from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def library(self) -> Library:
        return Library(self.folder, bundled=())

    def ready(self) -> int:
        return len(self.library.experts("ready"))

    def discover(
        self, hub: CivitaiServer, token: str | None = TOKEN, on_progress: Any = None, **config: Any
    ) -> Discovery:
        secret = SecretStr(token) if token else None
        client = CivitaiClient(hub.url, secret, QUICK)
        unfinished = self.folder / "library" / "unfinished"
        with (
            Downloader(unfinished, secret, [hub.url], FAST) as downloader,
            CivitaiCrawler(self.folder, EMOJI64, client, downloader=downloader) as crawler,
        ):
            return discover(
                crawler,
                self.library,
                EMOJI64,
                on_progress=on_progress,
                parameters=PARAMETERS,
                config=DiscoveryConfig(**config),
            )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def fetched(hub: CivitaiServer) -> list[str]:
    return [request.path for request in hub.storage.requests]


def test_pages_come_first_and_every_file_once(home: Home, hub: CivitaiServer) -> None:
    report = home.discover(hub)
    assert len(report.new) == home.ready() == COUNT
    paths = [request.path.split("/")[2] for request in hub.requests]
    assert "v1" not in paths[paths.index("download") :], "no page was asked for behind a file"
    assert sorted(fetched(hub)) == sorted({*fetched(hub)})
    assert len(fetched(hub)) == COUNT
    assert home.discover(hub).new == ()
    assert len(fetched(hub)) == COUNT


def test_what_a_stopped_run_owes_the_next_one_fetches(home: Home, hub: CivitaiServer) -> None:
    def stop(number: int, name: str) -> None:
        if number == COUNT + 4:  # all pages, and then four files
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.discover(hub, on_progress=stop)
    assert home.ready() == 4
    assert len(home.library.experts()) == COUNT
    home.discover(hub)
    assert home.ready() == COUNT
    assert not home.discover(hub).new


def test_pages_that_were_known_get_their_weights(home: Home, hub: CivitaiServer) -> None:
    assert len(home.discover(hub, token=None, metadata_only=True).listed) == COUNT
    assert fetched(hub) == []
    home.discover(hub)
    assert home.ready() == COUNT


def test_without_a_token_a_hub_is_not_asked_ten_thousand_times(
    home: Home, hub: CivitaiServer
) -> None:
    report = home.discover(hub, token=None)
    assert home.ready() == 0
    *first, rest = report.failed
    assert len(first) == FAILURES_IN_A_ROW
    assert all("DIFFGRAPH_CIVITAI_TOKEN" in failure.reason for failure in first)
    assert rest.where == f"{COUNT - FAILURES_IN_A_ROW} more files"
    assert len(home.library.experts("registered_only")) == COUNT
    home.discover(hub)
    assert home.ready() == COUNT


def test_one_file_that_is_missing_stops_nobody(home: Home, hub: CivitaiServer) -> None:
    del hub.files[31], hub.files[71]
    report = home.discover(hub)
    assert {failure.where for failure in report.failed} == {"civitai:3@31", "civitai:7@71"}
    assert home.ready() == COUNT - 2


def test_a_storage_that_is_down_is_left_alone(home: Home, hub: CivitaiServer) -> None:
    hub.storage.fail(503, times=500)
    report = home.discover(hub)
    assert home.ready() == 0
    assert report.failed[-1].where.endswith("more files")
    assert len(fetched(hub)) <= (FAILURES_IN_A_ROW + 4) * FAST.tries
    hub.storage._trouble.clear()
    home.discover(hub)
    assert home.ready() == COUNT


def test_a_limit_counts_files(home: Home, hub: CivitaiServer) -> None:
    assert len(home.discover(hub, limit=3).new) == home.ready() == 3
    assert len(fetched(hub)) == 3
    home.discover(hub, limit=4)
    assert home.ready() == 7


def test_a_page_that_changed_is_news_of_an_expert_that_is_held(
    home: Home, hub: CivitaiServer
) -> None:
    home.discover(hub)
    hub.publish(page_with_file(5, description="<p>It glows more.</p>"))
    report = home.discover(hub)
    assert [expert.ref for expert in report.updated] == ["civitai:5@51"]
    assert home.library.listing("civitai:5@51").description == "<p>It glows more.</p>"
    hub.publish(page_with_file(5, allowDerivatives=False))
    home.discover(hub)
    assert home.library.get("civitai:5@51").status == "registered_only"
