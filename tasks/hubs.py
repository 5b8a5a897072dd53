"""Where are experts looked for, and what reads them there?"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel

from diffgraph.errors import InputError, MissingInput
from diffgraph.families import get_family
from diffgraph.session.overrides import Overrides
from diffgraph.settings import Settings
from tasks.downloads import download_slot
from tasks.limits import shared_turn

if TYPE_CHECKING:
    from pydantic import SecretStr

    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.crawler import Crawler
    from diffgraph.crawlers.downloads import Downloader
    from diffgraph.crawlers.huggingface import HuggingFaceCrawler
    from diffgraph.crawlers.web import Turn, WebConfig
    from diffgraph.experts.library import Library
    from diffgraph.families import Family

log = logging.getLogger(__name__)


class Hub(BaseModel, frozen=True):
    """A folder, or a server."""

    source: Literal["folder", "civitai", "huggingface"] = "folder"
    path: Path | None = None
    """Of a folder."""
    url: str = ""
    """Of a live hub."""

    def __str__(self) -> str:
        """Return what the hub is called in a list of runs."""
        return str(self.path) if self.source == "folder" else self.source


def hub_of(source: str, path: Path | None, url: str | None, family: str) -> Hub:
    """Return the hub that is meant.

    Args:
        source: Its kind.
        path: The hub folder; the one that ships with the family if unset.
        url: The address of a live hub; the setting's if unset.
        family: Whose experts are wanted.

    Raises:
        MissingInput: No hub folder ships with the family.
        InputError: Kind and place do not go together, or the address cannot be used.
    """
    if source == "folder":
        if url is not None:
            raise InputError("--url is the address of a live hub: say which kind with --source")
        path = path or get_family(family).hub
        if path is None:
            raise MissingInput(f"no hub ships with {family}: say which with --path or --source")
        return Hub(path=path)
    if path is not None:
        raise InputError(f"--path is for a hub folder; {source} has an address: --url")
    from diffgraph.crawlers.web import address_of

    settings, names = Settings(), get_family(family).hub_names
    if source == "civitai":
        if all("/" in name for name in names):
            raise InputError(f"{family} has no base model on Civitai to ask for")
        found = address_of(url or settings.civitai_url, "DIFFGRAPH_CIVITAI_URL")
        return Hub(source="civitai", url=found)
    if source == "huggingface":
        if not any("/" in name for name in names):
            raise InputError(f"{family} has no base model on Hugging Face to ask for")
        found = address_of(url or settings.huggingface_url, "DIFFGRAPH_HUGGINGFACE_URL")
        return Hub(source="huggingface", url=found)
    raise InputError(f"no kind of hub is called {source!r}")


@contextmanager
def opened(
    hub: Hub, library: "Library", family: "Family", since: datetime | None, overrides: Overrides
) -> "Iterator[tuple[Crawler, int | None]]":
    """Open a hub; yield what reads it, and how many listings it has, if that is known."""
    from diffgraph.crawlers.folder import FolderCrawler

    if hub.source == "folder":
        if hub.path is None:
            raise InputError("a hub folder has a path")
        folder = FolderCrawler(hub.path)
        yield folder, sum(1 for _ in folder.listings())
        return
    from diffgraph.crawlers.downloads import DownloadConfig, Downloader
    from diffgraph.crawlers.web import WebConfig, per_minute

    settings, web = Settings(), overrides.of(WebConfig())
    is_civitai = hub.source == "civitai"
    token = _token_for(hub, settings)
    turn = shared_turn(hub.source, per_minute(hub.url, token is not None, web))
    downloads = overrides.of(DownloadConfig())
    unfinished, slot = library.folder / "unfinished", download_slot(downloads.at_once)
    with Downloader(unfinished, token, [hub.url], downloads, slot) as downloader:
        ask = _ask_civitai if is_civitai else _ask_huggingface
        with ask(Asking(hub.url, token, web, turn), library, family, since, downloader) as live:
            yield live, None


def _token_for(hub: Hub, settings: Settings) -> "SecretStr | None":
    """Return the token that goes with a live hub: it is for the address in the settings only.

    Whoever may start a run on a shared Prefect server may name any address as its parameter.
    """
    from diffgraph.crawlers.web import address_of

    is_civitai = hub.source == "civitai"
    token = settings.civitai_token if is_civitai else settings.huggingface_token
    own = settings.civitai_url if is_civitai else settings.huggingface_url
    variable = f"DIFFGRAPH_{hub.source.upper()}_URL"
    if token is None or urlsplit(hub.url)[:2] == urlsplit(address_of(own, variable))[:2]:
        return token
    log.warning("%s is asked without a token: that is for %s (%s)", hub.url, own, variable)
    return None


@dataclass(frozen=True)
class Asking:
    """How a live hub is asked."""

    url: str
    token: "SecretStr | None"
    config: "WebConfig"
    turn: "Turn | None"


def _ask_civitai(
    asking: Asking,
    library: "Library",
    family: "Family",
    since: datetime | None,
    downloader: "Downloader",
) -> "CivitaiCrawler | HuggingFaceCrawler":
    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.civitai_client import CivitaiClient

    client = CivitaiClient(asking.url, asking.token, asking.config, asking.turn)
    home = library.folder.parent
    return CivitaiCrawler(home, family, client, since=since, downloader=downloader)


def _ask_huggingface(
    asking: Asking,
    library: "Library",
    family: "Family",
    since: datetime | None,
    downloader: "Downloader",
) -> "CivitaiCrawler | HuggingFaceCrawler":
    from diffgraph.crawlers.huggingface import HuggingFaceCrawler
    from diffgraph.crawlers.web import Web

    web = Web(asking.url, asking.token, asking.config, asking.turn)
    return HuggingFaceCrawler(library, family, web, since=since, downloader=downloader)
