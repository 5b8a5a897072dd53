"""Where experts come from: a source of listings, and the files behind them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from diffgraph.experts.expert import Listing


class BrokenPage(BaseModel, frozen=True):
    """A page that could not be read, kept so that it is counted and named."""

    where: str
    reason: str


class Crawler(Protocol):
    """A hub: its pages, and the files they offer."""

    source: str

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every version of every expert, in a stable order."""
        ...

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Bring the listing's file into `folder`, checked against its hash, and return its path."""
        ...
