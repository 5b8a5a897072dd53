"""Bringing the library up to date with a hub."""

from datetime import datetime
from pathlib import Path

from diffgraph.crawlers.changes import Discovery
from diffgraph.progress import report
from diffgraph.session.hubs import Hub, Limits, opened
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings
from tasks.limits import download_slot, shared_turn
from tasks.policies import CRAWL, named, task


@task(**CRAWL, task_run_name=named(lambda given: f"discover {given['hub']}"))
def look_at_hub(
    hub: Hub,
    home: Path,
    family: str,
    limit: int | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
) -> Discovery:
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
    if hub.is_away(library):
        why = "it is not there, or empty: is a disk missing? its experts are kept"
        return Discovery.of_none(str(hub), len(library.experts("ready")), why)
    known, limits = get_family(family), Limits(shared_turn, download_slot)
    with opened(hub, library, known, config.since, overrides, limits) as (crawler, total):

        def on_progress(done: int, name: str) -> None:
            known_total = total or crawler.total
            if known_total and done > known_total:  # files that have to be opened, after all pages
                report("open", done - known_total, None, name)
            else:
                report("discover", done, known_total, name)

        return discover(crawler, library, known, on_progress=on_progress, config=config)
