"""How does a listing become an expert, usable or not?

What passes by its page is fetched, checked against its hash, and read against the base model. What
fails becomes a row with its reason and without a file.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.crawler import Crawler
from diffgraph.crawlers.examining import (
    CHECKPOINT_TYPES,
    DiscoveryConfig,
    check,
    examine,
    may_be_drawn,
)
from diffgraph.errors import (
    DamagedFile,
    DiffgraphError,
    ExpertError,
    MissingInput,
    NotMergeable,
    UnusableListing,
)
from diffgraph.experts.expert import Expert, Kind, Listing
from diffgraph.experts.library import Library, page_hash
from diffgraph.families import Family

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PAGE_ONLY = "only its page was read: its weights are fetched by a discover without --metadata-only"


def admit(
    listing: Listing,
    crawler: Crawler,
    library: Library,
    parameters: Mapping[str, "Tensor"],
    family: Family,
    config: DiscoveryConfig | None = None,
) -> Expert:
    """Fetch, check and read a listing's file, keep it in the library, and return its row.

    An expert that cannot be used is kept as a row with the reason, without its file.

    Args:
        listing: What a crawler found.
        crawler: Where its file comes from.
        library: Where expert, page and file are kept.
        parameters: The base model's tensors, which the file must fit.
        family: The base model it should be for.
        config: What is asked of it.

    Raises:
        StorageError: The home folder cannot be written.
        ServiceError: The hub failed us; another try may succeed.
    """
    row = row_of(listing, family)
    try:
        check(listing, family, config)
        if crawler.keeps_files:
            try:
                listing, kept = crawler.refer(listing)
                known = {**kept.model_dump(include={"sha256", "size_bytes"}), "place": kept.path}
                row = row_of(listing, family).model_copy(update=known)
                return library.add(_read(row, Path(kept.path), parameters, family, True), listing)
            except MissingInput as error:  # it has gone meanwhile
                raise UnusableListing(str(error)) from error
        with library.workbench() as folder:
            file = crawler.fetch(listing, folder)
            row = row.model_copy(
                update={"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
            )
            return library.add(_read(row, file, parameters, family), listing, file)
    except ExpertError as error:
        if isinstance(error, DamagedFile) and error.found:  # has been judged: see is_settled
            row = row.model_copy(update={"sha256": error.found})
        return library.add(refused(listing, family, error, row), listing)


def _read(
    row: Expert,
    file: Path,
    parameters: Mapping[str, "Tensor"],
    family: Family,
    copied: bool = False,
) -> Expert:
    """Return the row of an expert whose file can be merged, or raise why not."""
    from diffgraph.experts.reading import read_delta

    with _whatever_happens(file.name):
        delta = read_delta(file, parameters, prediction=family.prediction, copied=copied)
    kind: Kind = "checkpoint" if delta.format == "checkpoint" else "peft"
    return row.model_copy(
        update={
            "kind": kind,
            "format": delta.format,
            "coverage": delta.coverage.report(),
            "status": "ready",
            "reason": "",
        }
    )


@contextmanager
def _whatever_happens(file: str) -> Iterator[None]:
    """Turn an unforeseen error of a reader into `DamagedFile`: it costs the file, not the run."""
    try:
        yield
    except DiffgraphError:
        raise
    except Exception as error:
        log.warning("%s: a reader fell over it", file, exc_info=True)
        told = str(error).partition("\n")[0][:120]
        raise DamagedFile(f"{file}: cannot be read ({type(error).__name__}: {told})") from error


def row_of(listing: Listing, family: Family) -> Expert:
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


def refused(
    listing: Listing, family: Family, error: ExpertError, row: Expert | None = None
) -> Expert:
    """Return the row of an expert that cannot be used, or may not be merged."""
    status = "registered_only" if isinstance(error, NotMergeable) else "rejected"
    row = row or row_of(listing, family)
    return row.model_copy(update={"status": status, "reason": str(error)})


def page_only(listing: Listing, family: Family) -> Expert:
    """Return the row of an expert whose weights were not asked for."""
    changes = {"status": "registered_only", "reason": PAGE_ONLY}
    return row_of(listing, family).model_copy(update=changes)


def in_place(listing: Listing, family: Family, place: Path, before: Expert | None) -> Expert:
    """Return the row of an expert whose file is hashed and read in full at its first use.

    Args:
        listing: Its page.
        family: Whose it is, by names and shapes.
        place: Where its file stays.
        before: Its row so far; what is known of that very file stays.
    """
    row = row_of(listing, family).model_copy(
        update={"place": str(place), "size_bytes": listing.file.size_bytes if listing.file else 0}
    )
    if before is None or before.family != row.family:
        return row
    kept = ("sha256", "format", "coverage") if before.status in {"ready", "superseded"} else ()
    return row.model_copy(update={name: getattr(before, name) for name in kept})


def read_in_place(
    expert: Expert, library: Library, parameters: Mapping[str, "Tensor"], family: Family
) -> Expert:
    """Return the row of an expert known by its file's header, once all of the file is read.

    Raises:
        MissingInput: The file has gone, or is another since discover; its row stays as it is.
        StorageError: The home folder cannot be written.
    """
    row = library.get_hashed(expert.ref)
    try:
        row = _read(row, Path(row.place), parameters, family, copied=True)
    except ExpertError as error:
        row = row.model_copy(update={"status": "rejected", "reason": str(error)})
    library.update([row])
    return row


def is_settled(
    listing: Listing, library: Library, family: Family, config: DiscoveryConfig | None = None
) -> bool:
    """Return whether this very page has been judged, so that it need not be read again.

    A file that could not be fetched is tried again: its page does not change when it is mended. One
    that came and was another than its page speaks of is not: the row has the hash of what came.
    """
    known = library.find(listing.ref)
    if known is None or known.status == "retired" or known.page_sha256 != page_hash(listing):
        return False
    if known.status in {"ready", "superseded"}:
        is_here = Path(known.place).is_file() if known.place else library.holds(known.sha256)
        return is_here and may_be_drawn(listing, config)
    return bool(known.sha256) or examine(listing, family, config) is not None
