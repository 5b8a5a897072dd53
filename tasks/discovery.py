"""Bringing the library up to date with a hub."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel

from diffgraph.experts.expert import Expert
from diffgraph.progress import report
from diffgraph.session.hubs import Hub, Limits, opened
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings
from tasks.limits import download_slot, shared_turn
from tasks.policies import CRAWL, named, task


class Refusal(BaseModel, frozen=True):
    """An expert or a page that cannot be used, or not all of it, and why."""

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
    partly: tuple[Refusal, ...] = ()
    """New or updated and used, though some of their files' keys are left out, and which."""
    read_before: int = 0
    """Dealt with by a crawl that was stopped, and not counted above."""
    is_whole: bool = True
    """Whether the hub was read to its end."""


@task(**CRAWL, task_run_name=named(lambda given: f"discover {given['hub']}"))
def look_at_hub(
    hub: Hub,
    home: Path,
    family: str,
    limit: int | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
) -> Discovered:
    """Admit what is new on a hub, refuse what cannot be used, retire what has gone."""
    from diffgraph.crawlers.content import ContentConfig
    from diffgraph.crawlers.discovery import DiscoveryConfig, discover
    from diffgraph.experts.library import Library
    from diffgraph.families import get_family

    library = Library(home)
    overrides = read_overrides(Settings().config)
    config = overrides.of(
        DiscoveryConfig(),
        limit=limit,
        since=since,
        metadata_only=metadata_only or None,
        content=overrides.of(ContentConfig()),
    )
    known, limits = get_family(family), Limits(shared_turn, download_slot)
    with opened(hub, library, known, config.since, overrides, limits) as (crawler, total):
        found = discover(
            crawler,
            library,
            known,
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
        partly=tuple(
            Refusal(what=expert.ref, name=expert.name, reason=expert.coverage.told)
            for expert in (*found.new, *found.updated)
            if expert.coverage is not None and not expert.coverage.is_whole
        ),
        read_before=found.read_before,
        is_whole=found.is_whole,
    )


def _refs(experts: tuple[Expert, ...]) -> tuple[str, ...]:
    return tuple(expert.ref for expert in experts)
