"""Where experts come from: a source of listings, and the files behind them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from diffgraph.errors import UnusableListing
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.experts.references import Reference


class BrokenPage(BaseModel, frozen=True):
    """A page that could not be read, kept so that it is counted and named."""

    where: str
    reason: str


class Crawler(Protocol):
    """A hub: its pages, and the files they offer.

    A folder needs the first three only; the others are for hubs that are read over a network,
    which takes long, may be stopped half-way, and costs the hub something.
    """

    source: str

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every version of every expert, in a stable order.

        Raises:
            ServiceError: The hub fails; what was yielded so far stands.
        """
        ...

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Bring the listing's file into `folder`, checked against its hash, and return its path."""
        ...

    @property
    def total(self) -> int | None:
        """How many listings there are, as soon as that is known."""
        return None

    @property
    def keeps_files(self) -> bool:
        """Whether its files stay where they are, and `refer` stands for `fetch`."""
        return False

    def refer(self, listing: Listing) -> tuple[Listing, Reference]:
        """Return a listing, as it is once its file is hashed, and the file's reference."""
        raise UnusableListing(f"{listing.ref}: its file does not stay where it is")

    def place_of(self, listing: Listing) -> Path | None:
        """Return where a file stays that need not be read before its first use; else None."""
        return None

    def begin(self, library: Library) -> None:
        """Make sure that no other hub uses this hub's name; raises `InputError`."""
        return

    @property
    def is_remote(self) -> bool:
        """Whether reading loads another machine, so that it stops when there is enough."""
        return False

    @property
    def read_before(self) -> Collection[str]:
        """The references that a crawl which was stopped had dealt with, and this one skips."""
        return ()

    def keep(self) -> None:
        """What was yielded before the last listing is dealt with: never yield it again."""
        return

    def look_again(self, refs: Collection[str]) -> Iterator[Listing | BrokenPage]:
        """Yield listings of known experts that `listings` did not show, if they are still there."""
        return iter(())

    @property
    def is_whole(self) -> bool:
        """Whether an expert that was not yielded has gone from the hub."""
        return True

    def finish(self) -> None:
        """All that was yielded is dealt with: the next crawl begins anew."""
        return
