"""A home folder, and crawls of a Civitai hub into it, for tests."""

from typing import Any

from pydantic import SecretStr

from diffgraph.crawlers.civitai import CivitaiCrawler
from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.crawlers.discovery import Discovery, DiscoveryConfig, discover
from diffgraph.families import get_family
from tests.diffgraph.crawlers.home import QUICK, Home
from tests.servers.civitai import CivitaiServer

EMOJI64 = get_family("emoji64")


class CivitaiHome(Home):
    """A home folder, and crawls into it."""

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
    ) -> Discovery:
        config = config or DiscoveryConfig(metadata_only=True)
        with self.crawler(hub, since=config.since, **options) as crawler:
            return discover(crawler, self.library, EMOJI64, config=config)


def ref(number: int) -> str:
    return f"civitai:{number}@{number * 10 + 1}"


def reasons(report: Discovery) -> dict[str, str]:
    return {expert.ref: expert.reason for expert in (*report.rejected, *report.registered_only)}
