"""Which of a hub's experts can we use, and which are new?

A listing is examined before anything is downloaded; what passes is fetched, checked against its
hash and read against the base model. An expert that fails becomes a row with its reason, and the
run goes on. A page that has not changed, and whose file has been judged, is not read again.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.errors import ExpertError, LicenceForbids, ServiceError, UnusableListing
from diffgraph.experts.expert import Expert, Kind, Listing, Status
from diffgraph.experts.library import Library, page_hash
from diffgraph.families import Family

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PEFT_TYPES = ("lora", "locon", "dora", "lycoris", "loha", "lokr")
CHECKPOINT_TYPES = ("checkpoint",)
LARGEST_FILE = 64 << 30  # bytes

PAGE_ONLY = "only its page was read: its weights are fetched by a discover without --metadata-only"

Change = Literal["new", "updated", "unchanged", "rejected", "registered_only", "listed"]


@dataclass(frozen=True)
class DiscoveryReport:
    """What one look at a hub found.

    `new` and `updated` are ready to merge; `rejected` and `registered_only` are new or changed too,
    and carry their reasons; `unchanged` are all others that were there, usable or not.
    """

    source: str
    new: tuple[Expert, ...] = ()
    updated: tuple[Expert, ...] = ()
    registered_only: tuple[Expert, ...] = ()
    rejected: tuple[Expert, ...] = ()
    superseded: tuple[Expert, ...] = ()
    retired: tuple[Expert, ...] = ()
    unchanged: tuple[Expert, ...] = ()
    listed: tuple[Expert, ...] = ()  # only their pages were read, as was asked for
    later: int = 0  # left for another time, as was asked for
    broken: tuple[BrokenPage, ...] = ()
    failed: tuple[BrokenPage, ...] = ()  # not our doing nor theirs: the next run tries again


@dataclass(frozen=True)
class DiscoveryConfig:
    """How much of a hub is looked at. What is left out stays as it was."""

    limit: int | None = None  # new or changed experts that are taken
    since: datetime | None = None  # when an expert was published, at the earliest
    metadata_only: bool = False  # pages are kept, no weights are fetched

    def wants(self, listing: Listing, taken: int) -> bool:
        """Return whether to look at a listing when so many new or changed ones were taken."""
        if self.limit is not None and taken >= self.limit:
            return False
        if self.since is None or listing.published_at is None:
            return True
        return _in_utc(listing.published_at) >= _in_utc(self.since)


def examine(listing: Listing, family: Family) -> str | None:
    """Return why a listing must be refused before any download; None if it need not be."""
    try:
        _check(listing, family)
    except ExpertError as error:
        return str(error)
    return None


def admit(
    listing: Listing,
    crawler: Crawler,
    library: Library,
    parameters: Mapping[str, "Tensor"],
    family: Family,
) -> Expert:
    """Fetch, check and read a listing's file, keep it in the library, and return its row.

    An expert that cannot be used is kept as a row with the reason, without its file.

    Args:
        listing: What a crawler found.
        crawler: Where its file comes from.
        library: Where expert, page and file are kept.
        parameters: The base model's tensors, which the file must fit.
        family: The base model it should be for.

    Raises:
        StorageError: The home folder cannot be written.
        ServiceError: The hub failed us; another try may succeed.
    """
    from diffgraph.experts.reading import read_delta

    row = _row(listing, family)
    try:
        _check(listing, family)
        with library.workbench() as folder:
            file = crawler.fetch(listing, folder)
            row = row.model_copy(
                update={"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
            )
            delta = read_delta(file, parameters)
            kind: Kind = "checkpoint" if delta.format == "checkpoint" else "peft"
            row = row.model_copy(
                update={"kind": kind, "format": delta.format, "status": "ready", "reason": ""}
            )
            return library.add(row, listing, file)
    except LicenceForbids as error:
        return _refuse(row, listing, library, "registered_only", error)
    except ExpertError as error:
        return _refuse(row, listing, library, "rejected", error)


def discover(
    crawler: Crawler,
    library: Library,
    family: Family,
    on_progress: Callable[[int, str], None] | None = None,
    parameters: "Mapping[str, Tensor] | None" = None,
    config: DiscoveryConfig | None = None,
) -> DiscoveryReport:
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
    """
    library.sweep()
    config = config or DiscoveryConfig()
    base = _Parameters(family, parameters)
    found: dict[Change, list[Expert]] = {change: [] for change in get_args(Change)}
    later: list[str] = []
    broken: list[BrokenPage] = []
    failed: list[BrokenPage] = []
    for number, listing in enumerate(crawler.listings(), 1):
        if isinstance(listing, BrokenPage):
            broken.append(listing)
            name = listing.where
        else:
            name = listing.name
            taken = sum(len(experts) for change, experts in found.items() if change != "unchanged")
            try:
                if is_settled(listing, library, family) or config.wants(listing, taken):
                    expert, change = _bring_up_to_date(
                        listing, crawler, library, base, family, config.metadata_only
                    )
                    found[change].append(expert)
                else:
                    later.append(str(listing.ref))
            except ServiceError as error:
                failed.append(BrokenPage(where=str(listing.ref), reason=str(error)))
        if on_progress is not None:
            on_progress(number, name)
    seen = {expert.ref for experts in found.values() for expert in experts}
    seen |= {entry.where for entry in failed} | set(later)
    retired = retire_missing(crawler.source, seen, broken, library)
    superseded = settle_versions(crawler.source, library)
    now = {expert.ref: expert for expert in library.experts()}
    current = {change: tuple(now[one.ref] for one in experts) for change, experts in found.items()}
    return DiscoveryReport(
        source=crawler.source,
        new=tuple(expert for expert in current["new"] if expert.status == "ready"),
        updated=tuple(expert for expert in current["updated"] if expert.status == "ready"),
        registered_only=current["registered_only"],
        rejected=current["rejected"],
        superseded=superseded,
        retired=retired,
        unchanged=current["unchanged"],
        listed=current["listed"],
        later=len(later),
        broken=tuple(broken),
        failed=tuple(failed),
    )


def is_settled(listing: Listing, library: Library, family: Family) -> bool:
    """Return whether this very page has been judged, so that it need not be read again.

    A file that could not be fetched is tried again: its page does not change when it is mended.
    """
    known = library.find(listing.ref)
    if known is None or known.status == "retired" or known.page_sha256 != page_hash(listing):
        return False
    if known.status in {"ready", "superseded"}:
        return library.holds(known.sha256)
    return bool(known.sha256) or examine(listing, family) is not None


def settle_versions(source: str, library: Library) -> tuple[Expert, ...]:
    """Let the newest usable version of every expert stand for it; return those newly superseded."""
    lineages: dict[str, list[Expert]] = {}
    for expert in library.experts(("ready", "superseded")):
        lineage = expert.ref.rpartition("@")[0]
        if lineage.startswith(f"{source}:"):
            lineages.setdefault(lineage, []).append(expert)
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
    source: str, seen: Collection[str], broken: Iterable[BrokenPage], library: Library
) -> tuple[Expert, ...]:
    """Retire experts that have gone from their hub; return them.

    A page that could not be read says nothing about whether its expert is still there.
    """
    unreadable = {PurePosixPath(page.where).stem for page in broken}
    gone = [
        expert.ref
        for expert in library.experts()
        if expert.status != "retired"
        and expert.ref.startswith(f"{source}:")
        and expert.ref not in seen
        and expert.ref.rpartition("@")[0].partition(":")[2] not in unreadable
    ]
    library.retire(gone)
    return tuple(library.get(ref) for ref in gone)


class _Parameters:
    """The base model's tensors, loaded when the first file has to be read."""

    def __init__(self, family: Family, given: "Mapping[str, Tensor] | None") -> None:
        self._family = family
        self._given = given

    def get(self) -> Mapping[str, "Tensor"]:
        if self._given is None:
            self._given = self._family.load("cpu").parameters()
        return self._given


def _bring_up_to_date(
    listing: Listing,
    crawler: Crawler,
    library: Library,
    base: _Parameters,
    family: Family,
    page_only: bool,
) -> tuple[Expert, Change]:
    """Admit a listing unless it is settled; return its row and what has changed."""
    before = library.find(listing.ref)
    if before is not None and is_settled(listing, library, family):
        return before, "unchanged"
    refused = examine(listing, family) is not None
    if page_only and not refused:
        return _keep_page(listing, before, library, family)
    after = admit(listing, crawler, library, {} if refused else base.get(), family)
    if after == before:
        return after, "unchanged"
    if after.status == "registered_only":
        return after, "registered_only"
    if after.status == "rejected":
        log.info("%s (%s) is rejected: %s", after.name, after.ref, after.reason)
        return after, "rejected"
    return after, "new" if before is None else "updated"


def _keep_page(
    listing: Listing, before: Expert | None, library: Library, family: Family
) -> tuple[Expert, Change]:
    """Keep what a page says; an expert whose weights we hold stays as it is."""
    if before is not None and before.status in {"ready", "superseded"}:
        return before, "unchanged"
    row = _row(listing, family).model_copy(
        update={"status": "registered_only", "reason": PAGE_ONLY}
    )
    after = library.add(row, listing)
    return after, "unchanged" if after == before else "listed"


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check(listing: Listing, family: Family) -> None:
    """Raise the error that rules a listing out."""
    base_model = listing.base_model.strip()
    if base_model.lower() not in {name.lower() for name in family.hub_names}:
        raise UnusableListing(
            f"made for {base_model!r}, not for {' or '.join(map(repr, family.hub_names))}"
        )
    if listing.type and listing.type.lower() not in CHECKPOINT_TYPES + PEFT_TYPES:
        raise UnusableListing(f"{listing.type!r} is no set of weights that can be merged")
    if listing.nsfw:
        raise UnusableListing("marked as not safe for work")
    if not listing.licence.allow_derivatives:
        raise LicenceForbids("its page forbids derivatives, and a merge is one")
    _check_file(listing)


def _check_file(listing: Listing) -> None:
    file = listing.file
    if file is None or not file.url:
        raise UnusableListing("offers no file (early access, or taken down)")
    if file.format.lower() not in {"safetensor", "safetensors", ""}:
        raise UnusableListing(
            f"offers only {file.format} files, which could run code; expected SafeTensor"
        )
    for scan, result in (("pickle", file.pickle_scan), ("virus", file.virus_scan)):
        if result.lower() not in {"success", ""}:
            raise UnusableListing(f"the hub's {scan} scan says {result!r}, not 'Success'")
    if file.size_bytes > LARGEST_FILE:
        raise UnusableListing(f"its file is said to have {file.size_bytes >> 30} GiB")


def _row(listing: Listing, family: Family) -> Expert:
    """Return what is known of an expert before its file is."""
    return Expert(
        ref=str(listing.ref),
        name=listing.name,
        kind="checkpoint" if listing.type.lower() in CHECKPOINT_TYPES else "peft",
        family=family.name,
        licence=listing.licence,
        trigger_words=listing.trigger_words,
        published_at=listing.published_at,
    )


def _refuse(
    row: Expert, listing: Listing, library: Library, status: Status, error: ExpertError
) -> Expert:
    refused = row.model_copy(update={"status": status, "reason": str(error)})
    return library.add(refused, listing)


def _age(expert: Expert) -> tuple[datetime, int, str]:
    """Sort versions by when they were published, then by their number."""
    version = expert.ref.rpartition("@")[2]
    number = int(version) if version.isdecimal() else 0
    return expert.published_at or datetime.min.replace(tzinfo=UTC), number, version
