"""Which experts does a folder hold that is laid out like a hub?

    hub.json            {"name": "emojihub", …}; the name becomes the first part of every reference
    models/<id>.json    one page, in the shape of Civitai's `/api/v1/models` items
    files/… images/…    what the pages point at, by paths relative to the folder

The bundled community is such a folder, and so is a copy of a hub for a machine without a network.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from diffgraph.artifacts import new_file
from diffgraph.crawlers.civitai_pages import read_page, text
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.crawlers.hub_names import LIVE, claim
from diffgraph.errors import DamagedFile, MissingInput, UnusableListing, WrongHash
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.experts.peft_configuration import (
    PEFT_WEIGHTS,
    configuration_beside,
    keep_configuration,
)
from diffgraph.experts.references import LARGEST_FILE
from diffgraph.foreign_files import open_foreign, parse_json, read_foreign

PAGE_BYTES = 16 << 20
PAGE_VALUES = 500_000
READ_BYTES = 1 << 20
SIZE_SLACK = 1024  # bytes: pages say kilobytes, in one or the other meaning of the word
SOURCE = re.compile(r"[a-z0-9_]{1,40}")


class FolderCrawler(Crawler):
    """Reads a hub folder.

    Raises:
        MissingInput: The folder is not there, or is not a hub.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise MissingInput(f"no hub folder at {path}: it should hold hub.json and models/")
        self.folder = path.resolve()
        self.source = _source(path / "hub.json")
        _ = self.pages

    def begin(self, library: Library) -> None:
        """Claim the hub's name for this folder; raises `InputError` if another one bears it."""
        pages = (found for found in self.listings() if isinstance(found, Listing))
        claim(self.source, self.folder, library, pages)

    @property
    def pages(self) -> tuple[Path, ...]:
        """The page files, in the order they are read.

        Raises:
            MissingInput: They cannot be listed: that is not the same as having none.
        """
        try:
            found = (self.folder / "models").iterdir()
            return tuple(sorted(page for page in found if page.suffix == ".json"))
        except OSError as error:
            why = f"its folder models/ of pages cannot be read: {error.strerror}"
            raise MissingInput(f"{self.folder} is no hub folder: {why}") from error

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every version of every expert, page by page."""
        seen: set[str] = set()
        for page in self.pages:
            where = f"models/{text(page.name, 200)}"
            for found in self._read(page, where):
                if isinstance(found, Listing):
                    if str(found.ref) in seen:
                        yield BrokenPage(where=where, reason=f"{found.ref} is listed twice")
                        continue
                    seen.add(str(found.ref))
                yield found

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Copy the listing's file into `folder`, checked against its hash, and return its path.

        Raises:
            UnusableListing: The page points at no file of this hub.
            DamagedFile: The file is not the one its page speaks of.
        """
        target = folder / f"{listing.ref.model}-{listing.ref.version}.safetensors"
        expected = listing.file.sha256 if listing.file else ""
        digest = hashlib.sha256()
        with self._opened(listing) as source, new_file(target) as part:
            with part.open("wb") as write:
                for data in _read_from(source, os.fstat(source.fileno()).st_size):
                    digest.update(data)
                    write.write(data)
            if expected and digest.hexdigest() != expected:
                raise WrongHash.of(Path(source.name).name, digest.hexdigest(), expected)
        weights = Path(source.name)
        stated = (
            configuration_beside(weights, self.folder) if weights.name == PEFT_WEIGHTS else None
        )
        if stated is not None:
            keep_configuration(target, stated)  # its alphas: the copy lies alone
        return target

    def _read(self, page: Path, where: str) -> Iterator[Listing | BrokenPage]:
        try:
            items = _items(_read_json(page, self.folder))
        except MissingInput as error:
            yield BrokenPage(where=where, reason=str(error))
            return
        for item in items:
            for entry in read_page(item, self.source, page_url=where):
                if isinstance(entry, BrokenPage):
                    entry = BrokenPage(where=where, reason=entry.reason)
                yield entry

    def _opened(self, listing: Listing) -> BinaryIO:
        """Open the listed file, which must lie inside the hub and be as large as its page says."""
        url = listing.file.url if listing.file else ""
        if not url:
            raise UnusableListing("the page offers no file")
        stated = listing.file.size_bytes if listing.file else 0
        most = stated + stated // 100 + SIZE_SLACK if stated else LARGEST_FILE
        try:
            return open_foreign(self.folder / url, most, inside=self.folder)
        except MissingInput as error:
            raise UnusableListing(f"{error} (the file of its page: {url[:80]!r})") from error


def _read_from(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield what a file held when it was opened, and no more than that."""
    while size > 0:
        try:
            data = source.read(min(size, READ_BYTES))
        except OSError as error:
            raise DamagedFile(f"{source.name} cannot be read: {error.strerror}") from error
        if not data:
            return
        size -= len(data)
        yield data


def _source(path: Path) -> str:
    """Return the name a hub gives itself."""
    try:
        about = _read_json(path, path.parent)
    except MissingInput as error:
        raise MissingInput(f"{path.parent} is no hub folder: {error}") from error
    name = about.get("name") if isinstance(about, Mapping) else None
    if not isinstance(name, str) or SOURCE.fullmatch(name) is None:
        raise MissingInput(
            f"{path} gives no usable name: expected lower-case letters, digits and _, "
            f"found {str(name)[:40]!r}"
        )
    if name in LIVE:
        raise MissingInput(
            f"{path} gives itself the name {name!r}, as the live hub: its pages would take the "
            f"place of that hub's; another name will do, such as '{name}_copy'"
        )
    return name


def _read_json(path: Path, hub: Path) -> object:
    try:
        return parse_json(read_foreign(path, PAGE_BYTES, inside=hub), PAGE_VALUES)
    except ValueError as error:  # also undecodable text, and numbers of thousands of digits
        raise MissingInput(f"{path.name!r} is not JSON: {str(error)[:120]}") from error


def _items(page: object) -> list[object]:
    """Return the models of a page: it is one, or an API answer with several."""
    if isinstance(page, Mapping) and isinstance(page.get("items"), list):
        return list(page["items"])
    return [page]
