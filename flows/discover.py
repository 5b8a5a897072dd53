"""Which experts does a hub offer, and which of them can we use?"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from diffgraph.errors import MissingInput
from diffgraph.families import get_family
from diffgraph.settings import Settings
from flows.printing import Result, Rows, markdown, rows
from tasks.discovery import Discovered, look_at_hub


class Discovery(Result, Discovered):
    """What a look at a hub changed, as it is told."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield a line of counts, then who was refused and why."""
        yield (
            f"{self.source}: {len(self.new)} new, {len(self.updated)} updated, "
            f"{len(self.superseded)} superseded, {len(self.retired)} retired, "
            f"{self.unchanged} unchanged; {self.ready} experts can be merged"
        )
        if self.listed:
            yield f"{self.listed} known by their pages only"
        if self.later:
            yield f"{self.later} left for another time"
        if self.refused:
            yield f"{len(self.refused)} refused:"
            yield self.refusals
        for failure in self.failed:
            yield f"not reached, tried again next time: {failure.what}: {failure.reason}"

    @property
    def refusals(self) -> Rows:
        """Who was refused and why."""
        return rows(
            ("expert", "name", "reason"),
            [(refusal.what, refusal.name, refusal.reason) for refusal in self.refused],
        )


@flow(name="discover")
def discover(
    path: Path | None = None,
    family: str | None = None,
    limit: int | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
) -> Discovery:
    """Bring the library up to date with a hub folder.

    Args:
        path: the hub folder; the one that ships with the family if unset.
        family: the model family; the setting if unset.
        limit: take so many new or changed experts at most.
        since: look only at experts that were published since.
        metadata_only: read pages, fetch no weights.
    """
    settings = Settings()
    family = family or settings.family
    hub = path or get_family(family).hub
    if hub is None:
        raise MissingInput(f"no hub ships with {family}: say which with --path")
    found = Discovery(
        **look_at_hub(hub, settings.home, family, limit, since, metadata_only).model_dump()
    )
    create_markdown_artifact(markdown(found.refusals), key="refused-experts")
    return found
