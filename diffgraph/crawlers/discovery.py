"""Which of a hub's experts can we use, and which are new?

A listing is examined before anything is downloaded; what passes is fetched, checked against its
hash and read against the base model. An expert that fails becomes a row with its reason, and the
run goes on. A page that has not changed, and whose file has been judged, is not read again.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

from diffgraph.crawlers.admission import (
    PAGE_ONLY,
    admit,
    in_place,
    is_settled,
    page_only,
    refused,
)
from diffgraph.crawlers.changes import Discovery, Experts
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.examining import DiscoveryConfig, check, examine
from diffgraph.crawlers.weights import Base, PendingDownload, fetch_weights, unfetched
from diffgraph.errors import ExpertError, ServiceError
from diffgraph.experts.expert import Expert, Listing, Status
from diffgraph.experts.library import Library, page_hash
from diffgraph.families import Family

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Discovery",
    "DiscoveryConfig",
    "admit",
    "discover",
    "examine",
    "is_settled",
    "retire_missing",
    "settle_versions",
]

log = logging.getLogger(__name__)

PAGES_AT_ONCE = 200  # that are written together

Change = Literal["new", "updated", "unchanged", "rejected", "registered_only", "listed"]


def discover(
    crawler: Crawler,
    library: Library,
    family: Family,
    on_progress: Callable[[int, str], None] | None = None,
    parameters: "Mapping[str, Tensor] | None" = None,
    config: DiscoveryConfig | None = None,
) -> Discovery:
    """Bring the library up to date with a hub.

    Args:
        crawler: The hub.
        library: What is known so far.
        family: The base model that experts must be made for.
        on_progress: Called after every listing with how many were seen and the last one's name.
        parameters: The base model's tensors; loaded from the family when a file has to be read.
        config: How much of the hub to look at; all of it by default.

    Raises:
        StorageError: The home folder cannot be written; what was admitted so far stays.
        ServiceError: The hub failed before its first page.
    """
    crawler.begin(library)
    library.sweep()
    look = _Look(
        crawler,
        library,
        cache(lambda: family.load("cpu").parameters() if parameters is None else parameters),
        family,
        config or DiscoveryConfig(),
        on_progress,
    )
    look.at_all()
    is_whole = look.is_done and crawler.is_whole
    retired: tuple[Expert, ...] = ()
    if is_whole:
        retired = retire_missing(crawler.source, family.name, look.seen, look.broken, library)
    if look.is_done:
        crawler.finish()
    superseded = settle_versions(crawler.source, library)
    return look.report(superseded, retired, is_whole)


def settle_versions(source: str, library: Library) -> tuple[Expert, ...]:
    """Let the newest usable version of every expert stand for it; return those newly superseded."""
    lineages: dict[tuple[str, str], list[Expert]] = {}
    for expert in library.experts(("ready", "superseded")):
        lineage = expert.ref.rpartition("@")[0]
        if lineage.startswith(f"{source}:"):  # a version for another base replaces none
            lineages.setdefault((lineage, expert.family), []).append(expert)
    changed = []
    for versions in lineages.values():
        newest = max(versions, key=_age)
        for expert in versions:
            status: Status = "ready" if expert is newest else "superseded"
            if expert.status != status:
                reason = "" if expert is newest else f"replaced by {newest.ref}"
                changed.append(expert.model_copy(update={"status": status, "reason": reason}))
    library.update(changed)
    return tuple(expert for expert in changed if expert.status == "superseded")


def retire_missing(
    source: str,
    family: str,
    seen: Collection[str],
    broken: Iterable[BrokenPage],
    library: Library,
) -> tuple[Expert, ...]:
    """Retire experts of a family that have gone from their hub; return them.

    A page that could not be read says nothing about whether its expert is still there.
    """
    unreadable = {page.where.removeprefix("models/").removesuffix(".json") for page in broken}
    gone = [
        expert.ref
        for expert in library.experts()
        if expert.status != "retired"
        and expert.family == family  # a live hub was asked for this family's only
        and expert.ref.startswith(f"{source}:")
        and expert.ref not in seen
        and expert.ref.rpartition("@")[0].partition(":")[2] not in unreadable
    ]
    library.retire(gone)
    return tuple(library.get(ref) for ref in gone)


class _Look:
    """One look at a hub, and what it has found so far."""

    def __init__(
        self,
        crawler: Crawler,
        library: Library,
        base: Base,
        family: Family,
        config: DiscoveryConfig,
        on_progress: Callable[[int, str], None] | None,
    ) -> None:
        self.crawler, self.library, self.base = crawler, library, base
        self.family, self.config, self.on_progress = family, config, on_progress
        self.found: dict[Change, list[str]] = {change: [] for change in get_args(Change)}
        self.read_before = frozenset(crawler.read_before)
        self.seen = set(self.read_before)
        self.broken: list[BrokenPage] = []
        self.failed: list[BrokenPage] = []
        self.later = 0
        self.number = 0
        self.kept_out = 0  # experts that were removed from this home stay removed
        self.is_done = False  # whether the hub was read as far as was asked for
        self._pages: list[tuple[Expert, Listing]] = []  # decided, to be written together
        self._pending: dict[str, PendingDownload] = {}  # weights come after all pages

    @property
    def taken(self) -> int:
        """How many new or changed experts were dealt with, or will be."""
        found = sum(len(refs) for change, refs in self.found.items() if change != "unchanged")
        return found + len(self._pending)

    @property
    def _fetches_last(self) -> bool:
        """Whether all pages are known before the first file is looked at: files take long."""
        return self.crawler.is_remote or self.crawler.keeps_files

    def at_all(self) -> None:
        """Look at every listing, then again at the known ones that were not shown; fetch last."""
        try:
            if self._at_each(self.crawler.listings()):
                hub = f"{self.crawler.source}:"
                unseen = [
                    expert.ref
                    for expert in self.library.experts()
                    if expert.status != "retired" and expert.ref.startswith(hub)
                    if expert.family == self.family.name
                    if expert.ref not in self.seen
                ]
                self.is_done = self._at_each(self.crawler.look_again(unseen))
            self._write()
            self._fetch_pending()
        except ServiceError as error:
            if not self.seen:
                raise
            where = f"{self.crawler.source}, after {self.number} listings"
            self.failed.append(BrokenPage(where=where, reason=str(error)))
        finally:
            self._write()  # also when we are stopped: what was decided is kept

    def report(
        self, superseded: tuple[Expert, ...], retired: tuple[Expert, ...], is_whole: bool
    ) -> Discovery:
        """Return what was found, with every expert as it is now."""
        if self.kept_out:
            log.warning(
                "%d experts of %s are passed over: they were removed (`diffgraph remove REF "
                "--allow` lets one come back)", self.kept_out, self.crawler.source,
            )  # fmt: skip
        now = {expert.ref: expert for expert in self.library.experts()}
        current = {change: Experts(now[ref] for ref in refs) for change, refs in self.found.items()}
        return Discovery(
            source=self.crawler.source,
            ready=sum(expert.status == "ready" for expert in now.values()),
            new=Experts(expert for expert in current["new"] if expert.status == "ready"),
            updated=Experts(expert for expert in current["updated"] if expert.status == "ready"),
            registered_only=current["registered_only"],
            rejected=current["rejected"],
            superseded=Experts(superseded),
            retired=Experts(retired),
            unchanged=current["unchanged"],
            listed=current["listed"],
            later=self.later,
            broken=tuple(self.broken),
            failed=tuple(self.failed),
            read_before=len(self.read_before),
            is_whole=is_whole,
        )

    def _at_each(self, entries: Iterable[Listing | BrokenPage]) -> bool:
        """Look at these; return False if we stopped before the end since we have enough."""
        for entry in entries:
            if self.crawler.is_remote and self.config.is_enough(self.taken):
                return False
            self.number += 1
            self._at(entry)
            if self.on_progress is not None:
                name = entry.name if isinstance(entry, Listing) else entry.where
                self.on_progress(self.number, name)
        self._write()
        return True

    def _at(self, entry: Listing | BrokenPage) -> None:
        if isinstance(entry, Listing) and entry.ref.source != self.crawler.source:
            reason = f"it is listed by {self.crawler.source}, which cannot speak for its hub"
            entry = BrokenPage(where=str(entry.ref), reason=reason)
        if isinstance(entry, BrokenPage):
            self.broken.append(entry)
            return
        self.seen.add(str(entry.ref))
        if self.library.why_removed(entry.ref) is not None:
            self.kept_out += 1
            return
        try:
            self._judge(entry)
        except ServiceError as error:
            self.failed.append(BrokenPage(where=str(entry.ref), reason=str(error)))
        if len(self._pages) >= PAGES_AT_ONCE:
            self._write()

    def _judge(self, listing: Listing) -> None:
        """Decide about a listing, and note what has changed."""
        before = self.library.find(listing.ref)
        if before and is_settled(listing, self.library, self.family, self.config):
            if not self.library.holds_page(before.page_sha256):  # damaged: here it is again
                self._pages.append((before, listing))
            self._note("unchanged", listing)
        elif before and self._is_anothers(before, listing):
            self._note("unchanged", listing)
        elif not self.config.wants(listing, self.taken):
            self.later += 1
        else:
            try:
                check(listing, self.family, self.config)
            except ExpertError as error:
                row = refused(listing, self.family, error)
                log.debug("%s (%s) is refused: %s", row.name, row.ref, row.reason)
                self._keep_page(row, listing, before)
            else:
                self._take(listing, before)

    def _is_anothers(self, before: Expert, listing: Listing) -> bool:
        """Return whether another family has this expert, and its page makes it none of ours."""
        is_held = before.status in {"ready", "superseded"} and before.family != self.family.name
        return is_held and examine(listing, self.family, self.config) is not None

    def _take(self, listing: Listing, before: Expert | None) -> None:
        """Take in what passed: its page, or its weights too."""
        is_held = before is not None and before.status in {"ready", "superseded"}
        if self.config.metadata_only and is_held:
            self._note("unchanged", listing)  # a row with its weights stays as it is
        elif self.config.metadata_only:
            self._keep_page(page_only(listing, self.family), listing, before)
        elif (place := self.crawler.place_of(listing)) is not None:
            self._keep_page(in_place(listing, self.family, place, before), listing, before)
        elif self._fetches_last:
            self._pending[str(listing.ref)] = PendingDownload(listing, before)
            if not is_held:  # a run that is stopped finds in the library what is pending
                self._to_write(page_only(listing, self.family), listing, before)
        else:
            base = self.base()
            after = admit(listing, self.crawler, self.library, base, self.family, self.config)
            self._note(_change(before, after), listing)

    def _fetch_pending(self) -> None:
        """Fetch the weights of accepted pages, and those that a stopped run had left."""
        if self.config.metadata_only or not self._fetches_last:
            return
        before = self.read_before - self._pending.keys()
        rest = unfetched(before, self.library, self.family, self.config)
        room = None if self.config.limit is None else max(0, self.config.limit - self.taken)
        pending = [*self._pending.values(), *islice(rest, room)]
        fetched = fetch_weights(
            pending, self.crawler, self.library, self.base, self.family, self.config, self._tell
        )
        self._pending.clear()
        for one, after in fetched.admitted:
            self._note(_change(one.before, after), one.listing)
        self.failed.extend(fetched.failed)

    def _tell(self, name: str) -> None:
        self.number += 1
        if self.on_progress is not None:
            self.on_progress(self.number, name)

    def _keep_page(self, row: Expert, listing: Listing, before: Expert | None) -> None:
        self._note(_change(before, self._to_write(row, listing, before)), listing)

    def _to_write(self, row: Expert, listing: Listing, before: Expert | None) -> Expert:
        after = row.as_listed(listing, page_hash(listing))
        if after != before:
            self._pages.append((row, listing))
        return after

    def _note(self, change: Change, listing: Listing) -> None:
        self.found[change].append(str(listing.ref))

    def _write(self) -> None:
        self.library.add_pages(self._pages)
        self._pages.clear()
        self.crawler.keep()


def _change(before: Expert | None, after: Expert) -> Change:
    """Return what is new about an expert."""
    if after == before:
        return "unchanged"
    if after.status == "registered_only":
        return "listed" if after.reason == PAGE_ONLY else "registered_only"
    if after.status == "rejected":
        return "rejected"
    return "new" if before is None else "updated"


def _age(expert: Expert) -> tuple[datetime, int, str]:
    """Sort versions by when they were published, then by their number."""
    version = expert.ref.rpartition("@")[2]
    number = int(version) if version.isdecimal() else 0
    return expert.published_at or datetime.min.replace(tzinfo=UTC), number, version
