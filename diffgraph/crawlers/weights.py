"""Fetches and judges the weights of experts whose pages were accepted.

Fetching is a stage of its own, behind the reading of pages: accepted experts are kept
first, as rows without weights; then their files come, a few ahead of the one that is judged. A run
that is stopped finds in the library what is still to be fetched.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from diffgraph.crawlers.admission import PAGE_ONLY, admit
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.examining import DiscoveryConfig, examine
from diffgraph.crawlers.prefetching import PrefetchingCrawler
from diffgraph.crawlers.web import TokenRefused
from diffgraph.errors import ServiceError, ServiceUnavailable
from diffgraph.experts.expert import Expert, Listing
from diffgraph.experts.library import Library
from diffgraph.families import Family

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5  # due to the hub, not to one file: then fetching stops


Base = Callable[[], "Mapping[str, Tensor]"]
"""Gives the base model's tensors, loaded when the first file has to be read."""


class PendingDownload(NamedTuple):
    """An expert whose weights are to come."""

    listing: Listing
    before: Expert | None  # its row before this run; None if it was not known


@dataclass
class Fetched:
    """What came of it."""

    admitted: list[tuple[PendingDownload, Expert]] = field(default_factory=list)
    failed: list[BrokenPage] = field(default_factory=list)


def unfetched(
    refs: Collection[str], library: Library, family: Family, config: DiscoveryConfig
) -> Iterator[PendingDownload]:
    """Yield those of some experts that an earlier run knew and did not get to fetch."""
    for ref in sorted(refs):
        known = library.find(ref)
        if known is None or known.reason != PAGE_ONLY or known.family != family.name:
            continue
        listing = library.listing(ref)
        if config.is_in_window(listing) and examine(listing, family, config) is None:
            yield PendingDownload(listing, known)


def fetch_weights(
    pending: Sequence[PendingDownload],
    crawler: Crawler,
    library: Library,
    base: Base,
    family: Family,
    config: DiscoveryConfig,
    on_progress: Callable[[str], None] | None = None,
) -> Fetched:
    """Fetch and judge the weights of experts; a hub that fails again and again is left alone.

    Raises:
        StorageError: The home folder cannot be written; what was admitted so far stays.
    """
    fetched = Fetched()
    if not pending:
        return fetched
    in_a_row = 0
    listings = [one.listing for one in pending]
    with library.workbench() as folder, ExitStack() as stack:
        ahead = crawler
        if not crawler.keeps_files:
            ahead = stack.enter_context(PrefetchingCrawler(crawler, listings, folder))
        for number, one in enumerate(pending, 1):
            try:
                after = admit(one.listing, ahead, library, base(), family, config)
            except ServiceError as error:
                fetched.failed.append(_failure(str(one.listing.ref), error, crawler.source))
                of_the_hub = isinstance(error, ServiceUnavailable | TokenRefused)
                in_a_row = in_a_row + 1 if of_the_hub else 0
                if in_a_row >= FAILURES_IN_A_ROW and number < len(pending):
                    where = f"{len(pending) - number} more files"
                    reason = f"not asked for after {in_a_row} failures one after the other"
                    fetched.failed.append(BrokenPage(where=where, reason=reason))
                    break
            else:
                in_a_row = 0
                fetched.admitted.append((one, after))
            if on_progress is not None:
                on_progress(one.listing.name)
    return fetched


def _failure(where: str, error: ServiceError, source: str) -> BrokenPage:
    hint = f"; set DIFFGRAPH_{source.upper()}_TOKEN" if isinstance(error, TokenRefused) else ""
    return BrokenPage(where=where, reason=f"{error}{hint}")
