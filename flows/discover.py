"""Which experts does a hub offer, and which of them can we use?"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from diffgraph.results import Result, Rows, rows
from diffgraph.session.hubs import hub_of
from diffgraph.settings import Settings
from flows.serving.parameters import Address, Limit, Name, Place, Source
from flows.serving.publishing import publish
from flows.serving.watched import flow, one_at_a_time
from tasks.discovery import Discovered, look_at_hub

SHOWN = 40
"""Refusals that are listed one by one; of more, the reasons are counted."""


class Discovery(Result, Discovered):
    """What a look at a hub changed, as it is told."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield a line of counts, then who was refused and why."""
        yield (
            f"{self.source}: {len(self.new)} new, {len(self.updated)} updated, "
            f"{len(self.superseded)} superseded, {len(self.retired)} retired, "
            f"{self.unchanged} unchanged; {self.ready} experts can be merged"
        )
        if self.read_before:
            yield f"went on with a crawl that was stopped; it had dealt with {self.read_before}"
        if self.listed:
            yield f"{self.listed} known by their pages only"
        if self.later:
            yield f"{self.later} left for another time"
        if not self.is_whole:
            yield "the hub was not read to its end; the same command goes on, nobody was retired"
        if self.refused:
            yield f"{len(self.refused)} refused:"
            yield self.refusals if len(self.refused) <= SHOWN else self.reasons
        for expert in self.partly[:SHOWN]:
            yield f"{expert.what}: {expert.reason}"
        if len(self.partly) > SHOWN:
            yield f"and {len(self.partly) - SHOWN} more were not read in whole"
        for failure in self.failed[:SHOWN]:
            yield f"not reached, tried again next time: {failure.what}: {failure.reason}"
        if len(self.failed) > SHOWN:
            yield f"and {len(self.failed) - SHOWN} more were not reached"

    @property
    def refusals(self) -> Rows:
        """Who was refused and why."""
        return rows(
            ("expert", "name", "reason"),
            [(refusal.what, refusal.name, refusal.reason) for refusal in self.refused],
        )

    @property
    def reasons(self) -> Rows:
        """How many were refused for which reason, numbers in it aside, with one of each."""
        kinds = [NUMBERS.sub("…", refusal.reason) for refusal in self.refused]
        example = dict(zip(reversed(kinds), reversed(self.refused), strict=True))
        return rows(
            ("refused", "reason", "one of them"),
            [
                (str(count), kind, f"{example[kind].what} {example[kind].name}".strip())
                for kind, count in Counter(kinds).most_common()
            ],
        )


NUMBERS = re.compile(r"\b[0-9a-f]{10,}\b|(?<![\w.])\d[\d.,]*(?![\w.])")


@flow(name="discover")
@one_at_a_time("discover")
def discover(
    path: Place | None = None,
    family: Name | None = None,
    limit: Limit | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
    source: Source = "folder",
    url: Address | None = None,
) -> Discovery:
    """Bring the library up to date with a hub.

    Args:
        path: the hub folder; the one that ships with the family if unset.
        family: the model family; the setting if unset.
        limit: take so many new or changed experts at most.
        since: look only at experts that were published since.
        metadata_only: read pages, fetch no weights.
        source: the kind of hub: `folder`, or one that is live.
        url: the address of a live hub; the setting's if unset.
    """
    settings = Settings()
    family = family or settings.family
    hub = hub_of(source, path, url, family)
    found = Discovery(
        **look_at_hub(hub, settings.home, family, limit, since, metadata_only).model_dump()
    )
    publish(found, key="refused-experts")
    return found
