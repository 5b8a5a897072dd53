"""Where are experts looked for, and what reads them there?"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel

from diffgraph.errors import InputError, MissingInput
from diffgraph.extensions import Extensible
from diffgraph.families import get_family
from diffgraph.session.overrides import Overrides
from diffgraph.settings import Settings

if TYPE_CHECKING:
    from pydantic import SecretStr

    from diffgraph.crawlers.crawler import Crawler
    from diffgraph.crawlers.hash_lookup import HashLookup
    from diffgraph.crawlers.web import Turn
    from diffgraph.experts.library import Library
    from diffgraph.families import Family

log = logging.getLogger(__name__)


LIVE = {"civitai": "Civitai", "huggingface": "Hugging Face"}


def _refuse(name: str, value: Any) -> str:
    if not callable(value):
        return "a Crawler, or a function that returns one, is wanted"
    return "the name is one of ours" if name in ("folder", *LIVE) else ""


HUBS: Extensible["Callable[[Family, str, datetime | None], Crawler]"] = Extensible(
    "hubs", {}, _refuse
)
"""Hubs of other packages: (family, --path or --url or nothing, --since) → what reads one."""


def check_source(name: str) -> str:
    """Return the name of a kind of hub; raises `InputError` unless there is one."""
    if name not in ("folder", *LIVE) and name not in HUBS:
        known = ", ".join(("folder", *LIVE, *HUBS))
        raise InputError(f"no kind of hub is called {name!r}: there is {known}")
    return name


class Hub(BaseModel, frozen=True):
    """A folder, a server, or what a package adds."""

    source: str = "folder"
    path: Path | None = None
    """Of a folder."""
    url: str = ""
    """Of a live hub."""
    online: bool = False
    """Whether Civitai is asked, by hash, for files of a folder of which little is known."""

    @property
    def is_of_files(self) -> bool:
        """Whether it is a folder of weights files, which stay there, and not laid out as a hub."""
        return (
            self.path is not None
            and self.path.is_dir()
            and not any(os.path.lexists(self.path / name) for name in ("hub.json", "models"))
        )

    def is_away(self, library: "Library") -> bool:
        """Whether it is a folder that was discovered, and is not there or empty: a missing disk."""
        from diffgraph.crawlers.hub_names import name_borne_by

        if self.source != "folder" or self.path is None:
            return False
        folder = self.path.resolve()
        with suppress(OSError), os.scandir(folder) as entries:
            if next(entries, None) is not None:
                return False
        return name_borne_by(folder, library) is not None

    def __str__(self) -> str:
        """Return what the hub is called in a list of runs."""
        return str(self.path) if self.source == "folder" else self.source


def hub_of(
    source: str, path: Path | None, url: str | None, family: str, online: bool = False
) -> Hub:
    """Return the hub that is meant.

    Args:
        source: Its kind.
        path: The hub folder; the one that ships with the family if unset.
        url: The address of a live hub; the setting's if unset.
        family: Whose experts are wanted.
        online: Whether Civitai is asked for files of a folder of which little is known.

    Raises:
        MissingInput: No hub folder ships with the family.
        InputError: Kind and place do not go together, or the address cannot be used.
    """
    if online and source != "folder":
        raise InputError("--online is for folders of weights files: a live hub has pages anyway")
    if source == "folder":
        if url is not None:
            raise InputError("--url is the address of a live hub: say which kind with --source")
        path = path or get_family(family).hub
        if path is None:
            raise MissingInput(f"no hub ships with {family}: say which with --path or --source")
        return Hub(path=path, online=online)
    if check_source(source) not in LIVE:
        return Hub(source=source, path=path, url=url or "")
    if path is not None:
        raise InputError(f"--path is for a hub folder; {source} has an address: --url")
    names = get_family(family).hub_names
    # a model of Hugging Face has its owner before it
    if not any(("/" in name) == (source == "huggingface") for name in names):
        raise InputError(f"{family} has no base model on {LIVE[source]} to ask for")
    return Hub.model_validate({"source": source, "url": _address(source, url, Settings())})


class Limits(NamedTuple):
    """How processes that read one hub stay polite together; by themselves if nothing is said."""

    turn: "Callable[[str, float | None], Turn | None]"
    """A hub's name and its requests a minute → what to await before a request."""
    slot: Callable[[int], Callable[[], AbstractContextManager[object]]]
    """Files at once → what to enter for as long as one is fetched."""


@contextmanager
def opened(
    hub: Hub,
    library: "Library",
    family: "Family",
    since: datetime | None,
    overrides: Overrides,
    limits: Limits | None = None,
) -> "Iterator[tuple[Crawler, int | None]]":
    """Open a hub; yield what reads it, and how many listings it has, if that is known."""
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.crawlers.folder_of_files import FolderOfFiles

    if hub.source == "folder":
        if hub.path is None:
            raise InputError("a hub folder has a path")
        if hub.is_of_files:
            with _lookup(hub, overrides, limits) as lookup:
                yield FolderOfFiles(hub.path, family, library, lookup), None
            return
        if hub.online:
            raise InputError(f"--online is for folders of weights files; {hub.path} has pages")
        folder = FolderCrawler(hub.path)
        yield folder, sum(1 for _ in folder.listings())
        return
    if hub.source not in LIVE:
        with ExitStack() as stack:
            crawler = HUBS[hub.source](family, str(hub.path or hub.url), since)
            if isinstance(crawler, AbstractContextManager):
                stack.enter_context(crawler)
            if crawler.source != hub.source:
                raise InputError(f"the hub {hub.source} calls itself {crawler.source!r}")
            yield crawler, None
        return
    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.civitai_client import CivitaiClient
    from diffgraph.crawlers.downloads import DownloadConfig, Downloader
    from diffgraph.crawlers.huggingface import HuggingFaceCrawler
    from diffgraph.crawlers.web import Web, WebConfig, per_minute

    config, downloads = overrides.of(WebConfig()), overrides.of(DownloadConfig())
    token = _token_for(hub, Settings())
    turn = limits and limits.turn(hub.source, per_minute(hub.url, token is not None, config))
    slot = limits and limits.slot(downloads.at_once)
    with Downloader(library.folder / "unfinished", token, [hub.url], downloads, slot) as downloader:
        how: dict[str, Any] = {"since": since, "downloader": downloader}
        live: CivitaiCrawler | HuggingFaceCrawler
        if hub.source == "civitai":
            client = CivitaiClient(hub.url, token, config, turn)
            live = CivitaiCrawler(library.folder.parent, family, client, **how)
        else:
            web = Web(hub.url, token, config, turn)
            live = HuggingFaceCrawler(library, family, web, **how)
        with live:
            yield live, None


@contextmanager
def _lookup(hub: Hub, overrides: Overrides, limits: Limits | None) -> "Iterator[HashLookup | None]":
    """Yield who asks Civitai for files by their hashes; None if nobody is to be asked."""
    from diffgraph.crawlers.civitai_client import CivitaiClient
    from diffgraph.crawlers.hash_lookup import HashLookup
    from diffgraph.crawlers.web import WebConfig, per_minute

    if not hub.online:
        yield None
        return
    settings, config = Settings(), overrides.of(WebConfig())
    url = _address("civitai", None, settings)
    token = settings.civitai_token
    turn = limits and limits.turn("civitai", per_minute(url, token is not None, config))
    with HashLookup.opened(CivitaiClient(url, token, config, turn)) as lookup:
        yield lookup


def _token_for(hub: Hub, settings: Settings) -> "SecretStr | None":
    """Return the token that goes with a live hub: it is for the address in the settings only.

    Whoever may start a run on a shared Prefect server may name any address as its parameter.
    """
    token = getattr(settings, f"{hub.source}_token")
    own = _address(hub.source, None, settings)
    if token is None or urlsplit(hub.url)[:2] == urlsplit(own)[:2]:
        return token  # type: ignore[no-any-return]
    variable = f"DIFFGRAPH_{hub.source.upper()}_URL"
    log.warning("%s is asked without a token: that is for %s (%s)", hub.url, own, variable)
    return None


def _address(source: str, url: str | None, settings: Settings) -> str:
    from diffgraph.crawlers.web import address_of

    own = getattr(settings, f"{source}_url")
    return address_of(url or own, f"DIFFGRAPH_{source.upper()}_URL")
