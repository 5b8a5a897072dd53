"""Bringing the library up to date with a hub."""

from datetime import datetime
from pathlib import Path

from prefect import task
from pydantic import BaseModel

from diffgraph.experts.expert import Expert
from tasks.policies import NETWORK
from tasks.progress import report


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


@task(**NETWORK, task_run_name="discover {hub}")
def look_at_hub(
    hub: Path,
    home: Path,
    family: str,
    limit: int | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
) -> Discovered:
    """Admit what is new in a hub folder, refuse what cannot be used, retire what has gone."""
    from diffgraph.crawlers.discovery import DiscoveryConfig, discover
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.experts.library import Library
    from diffgraph.families import get_family

    library = Library(home)
    crawler = FolderCrawler(hub)
    total = sum(1 for _ in crawler.listings())
    found = discover(
        crawler,
        library,
        get_family(family),
        on_progress=lambda done, name: report("discover", done, total, name),
        config=DiscoveryConfig(limit=limit, since=since, metadata_only=metadata_only),
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
    )


def _refs(experts: tuple[Expert, ...]) -> tuple[str, ...]:
    return tuple(expert.ref for expert in experts)
