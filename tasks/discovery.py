"""Bringing the library up to date with a hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import task
from pydantic import BaseModel

from diffgraph.errors import InputError
from diffgraph.experts.expert import Expert
from diffgraph.settings import Settings
from tasks.limits import shared_turn
from tasks.overrides import Overrides, read_overrides
from tasks.policies import NETWORK
from tasks.progress import report

if TYPE_CHECKING:
    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.crawler import Crawler
    from diffgraph.crawlers.discovery import DiscoveryConfig
    from diffgraph.crawlers.huggingface import HuggingFaceCrawler
    from diffgraph.crawlers.web import WebConfig
    from diffgraph.experts.library import Library
    from diffgraph.families import Family


class Hub(BaseModel, frozen=True):
    """Where experts are looked for."""

    source: Literal["folder", "civitai", "huggingface"] = "folder"
    path: Path | None = None
    """Of a folder."""
    url: str | None = None
    """Of a live hub; the setting's if unset."""

    def __str__(self) -> str:
        """Return what the hub is called in a list of runs."""
        return str(self.path) if self.source == "folder" else self.source


class Refusal(BaseModel, frozen=True):
    """An expert or a page that cannot be used, and why."""

    what: str
    name: str
    reason: str


class Discovered(BaseModel, frozen=True):
    """What one look at a hub changed in the library."""

    source: str
    ready: int
    new: tuple[str, ...]
    updated: tuple[str, ...]
    superseded: tuple[str, ...]
    retired: tuple[str, ...]
    unchanged: int
    listed: int
    """Only their pages were read."""
    later: int
    """New or changed, and left for another time."""
    refused: tuple[Refusal, ...]
    failed: tuple[Refusal, ...]
    read_before: int = 0
    """Dealt with by a crawl that was stopped, and not counted above."""
    is_whole: bool = True
    """Whether the hub was read to its end."""


@task(**NETWORK, task_run_name="discover {hub}")
def look_at_hub(
    hub: Hub,
    home: Path,
    family: str,
    limit: int | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
) -> Discovered:
    """Admit what is new on a hub, refuse what cannot be used, retire what has gone."""
    from diffgraph.crawlers.discovery import DiscoveryConfig, discover
    from diffgraph.experts.library import Library
    from diffgraph.families import get_family

    library = Library(home)
    overrides = read_overrides(Settings().config)
    asked = {"limit": limit, "since": since, "metadata_only": metadata_only or None}
    config = overrides.of(DiscoveryConfig()).model_copy(
        update={name: value for name, value in asked.items() if value is not None}
    )
    with _crawler(hub, library, get_family(family), config, overrides) as (crawler, total):
        found = discover(
            crawler,
            library,
            get_family(family),
            on_progress=lambda done, name: report("discover", done, total, name),
            config=config,
        )
    return Discovered(
        source=found.source,
        ready=len(library.experts("ready")),
        new=_refs(found.new),
        updated=_refs(found.updated),
        superseded=_refs(found.superseded),
        retired=_refs(found.retired),
        unchanged=len(found.unchanged),
        listed=len(found.listed),
        later=found.later,
        refused=(
            *(Refusal(what=page.where, name="", reason=page.reason) for page in found.broken),
            *(
                Refusal(what=expert.ref, name=expert.name, reason=expert.reason)
                for expert in (*found.registered_only, *found.rejected)
            ),
        ),
        failed=tuple(
            Refusal(what=page.where, name="", reason=page.reason) for page in found.failed
        ),
        read_before=found.read_before,
        is_whole=found.is_whole,
    )


@contextmanager
def _crawler(
    hub: Hub, library: "Library", family: "Family", config: "DiscoveryConfig", overrides: Overrides
) -> "Iterator[tuple[Crawler, int | None]]":
    """Open a hub; yield what reads it, and how many listings it has, if that is known."""
    if hub.source == "folder":
        from diffgraph.crawlers.folder import FolderCrawler

        if hub.path is None:
            raise InputError("a hub folder has a path")
        folder = FolderCrawler(hub.path)
        yield folder, sum(1 for _ in folder.listings())
        return
    from diffgraph.crawlers.web import WebConfig

    web = overrides.of(WebConfig())
    if hub.source == "civitai":
        with _civitai(hub, family, config.since, web) as live:
            yield live, None
    else:
        with _huggingface(hub, library, family, config.since, web) as live:
            yield live, None


def _civitai(
    hub: Hub, family: "Family", since: datetime | None, web: "WebConfig"
) -> "CivitaiCrawler":
    from diffgraph.crawlers.civitai import CivitaiCrawler
    from diffgraph.crawlers.civitai_client import CivitaiClient
    from diffgraph.crawlers.web import per_minute

    settings = Settings()
    url, token = hub.url or settings.civitai_url, settings.civitai_token
    turn = shared_turn(hub.source, per_minute(url, token is not None, web))
    client = CivitaiClient(url, token, web, turn)
    return CivitaiCrawler(settings.home, family, client, since=since)


def _huggingface(
    hub: Hub, library: "Library", family: "Family", since: datetime | None, web: "WebConfig"
) -> "HuggingFaceCrawler":
    from diffgraph.crawlers.huggingface import HuggingFaceCrawler
    from diffgraph.crawlers.web import per_minute

    settings = Settings()
    url, token = hub.url or settings.huggingface_url, settings.huggingface_token
    turn = shared_turn(hub.source, per_minute(url, token is not None, web))
    return HuggingFaceCrawler(library, family, url, token=token, config=web, since=since, turn=turn)


def _refs(experts: tuple[Expert, ...]) -> tuple[str, ...]:
    return tuple(expert.ref for expert in experts)
