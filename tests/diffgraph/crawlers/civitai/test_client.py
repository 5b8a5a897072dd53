"""The hub's API, as far as it is asked."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.crawlers.web import WebConfig
from diffgraph.errors import DiffgraphError
from tests.diffgraph.crawlers.home import QUICK
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages


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
