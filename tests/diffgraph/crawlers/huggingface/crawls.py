"""A home folder, and crawls of a Hugging Face hub into it, for tests."""

from typing import Any

import torch
from pydantic import SecretStr

from diffgraph.crawlers.discovery import Discovery, DiscoveryConfig, discover
from diffgraph.crawlers.huggingface import HuggingFaceCrawler
from diffgraph.crawlers.web import Web
from diffgraph.families import get_family
from tests.diffgraph.crawlers import home
from tests.diffgraph.crawlers.home import Home
from tests.servers.huggingface import HuggingFaceServer, repository

SD15 = get_family("sd15")


OLD_BASE = "runwayml/stable-diffusion-v1-5"


QUICK = home.QUICK.model_copy(update={"page_size": 4})


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


PARAMETERS = {f"{LAYER}.weight": torch.ones(6, 4)}


class HuggingFaceHome(Home):
    """A home folder, and crawls into it."""

    @property
    def names(self) -> list[str]:
        return [expert.ref.split(":")[1].split("@")[0] for expert in self.library.experts()]

    def discover(
        self,
        hub: HuggingFaceServer,
        config: DiscoveryConfig | None = None,
        token: str | None = None,
        on_progress: Any = None,
        parameters: dict[str, torch.Tensor] | None = None,
    ) -> Discovery:
        library, config = self.library, config or DiscoveryConfig(metadata_only=True)
        secret = SecretStr(token) if token else None
        web = Web(hub.url, secret, QUICK)
        with HuggingFaceCrawler(library, SD15, web, since=config.since) as crawler:
            weights = parameters or PARAMETERS
            return discover(crawler, library, SD15, on_progress, weights, config)


def reasons(report: Discovery) -> list[str]:
    return [expert.reason for expert in (*report.rejected, *report.registered_only)]


def many(count: int) -> list[dict[str, Any]]:
    return [repository(f"maker/new{number}") for number in range(count)]
