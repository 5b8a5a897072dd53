"""Which experts does a folder hold that is laid out like a hub?

    hub.json            {"name": "emojihub", …}; the name becomes the first part of every reference
    models/<id>.json    one page, in the shape of Civitai's `/api/v1/models` items
    files/… images/…    what the pages point at, by paths relative to the folder

The bundled community is such a folder, and so is a copy of a hub for a machine without a network.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from diffgraph.artifacts import new_file
from diffgraph.crawlers.civitai_pages import read_page
from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.errors import DamagedFile, MissingInput, UnusableListing
from diffgraph.experts.expert import Listing

PAGE_BYTES = 16 << 20
READ_BYTES = 1 << 20
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
        if not (path / "models").is_dir():
            raise MissingInput(f"{path} is no hub folder: it has no folder models/ with pages")

    @property
    def pages(self) -> tuple[Path, ...]:
        """The page files, in the order they are read."""
        return tuple(sorted((self.folder / "models").glob("*.json")))

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every version of every expert, page by page."""
        seen: set[str] = set()
        for page in self.pages:
            where = f"models/{page.name}"
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
        source = self._file(listing)
        expected = listing.file.sha256 if listing.file else ""
        target = folder / f"{listing.ref.model}-{listing.ref.version}.safetensors"
        digest = hashlib.sha256()
        with source.open("rb") as read, new_file(target) as part:
            with part.open("wb") as write:
                while data := read.read(READ_BYTES):
                    digest.update(data)
                    write.write(data)
            if expected and digest.hexdigest() != expected:
                raise DamagedFile(
                    f"{source.name}: SHA-256 is {digest.hexdigest()[:12]}…, "
                    f"its page says {expected[:12]}…"
                )
        return target

    def _read(self, page: Path, where: str) -> Iterator[Listing | BrokenPage]:
        try:
            items = _items(_read_json(page))
        except MissingInput as error:
            yield BrokenPage(where=where, reason=str(error))
            return
        for item in items:
            for entry in read_page(item, self.source, page_url=where):
                if isinstance(entry, BrokenPage):
                    entry = BrokenPage(where=where, reason=entry.reason)
                yield entry

    def _file(self, listing: Listing) -> Path:
        """Return the listed file's path, which must lie inside the hub, links followed."""
        url = listing.file.url if listing.file else ""
        if not url:
            raise UnusableListing("the page offers no file")
        try:
            path = (self.folder / url).resolve()
            inside = path.is_relative_to(self.folder)
            if inside and path.is_file():
                return path
        except (OSError, ValueError) as error:
            raise UnusableListing(f"the file's path cannot be used: {url[:80]!r}") from error
        if not inside or "://" in url:
            raise UnusableListing(f"the file lies outside of the hub folder: {url[:80]!r}")
        raise UnusableListing(f"the file is missing from the hub folder: {url[:80]!r}")


def _source(path: Path) -> str:
    """Return the name a hub gives itself."""
    try:
        about = _read_json(path)
    except MissingInput as error:
        raise MissingInput(f"{path.parent} is no hub folder: {error}") from error
    name = about.get("name") if isinstance(about, Mapping) else None
    if not isinstance(name, str) or SOURCE.fullmatch(name) is None:
        raise MissingInput(
            f"{path} gives no usable name: expected lower-case letters, digits and _, "
            f"found {str(name)[:40]!r}"
        )
    return name


def _read_json(path: Path) -> object:
    try:
        if path.stat().st_size > PAGE_BYTES:
            raise MissingInput(f"{path.name} is larger than {PAGE_BYTES >> 20} MiB")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(f"{path} is missing") from error
    except OSError as error:
        raise MissingInput(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise MissingInput(f"{path.name} is nested too deeply") from error
    except ValueError as error:  # also undecodable text, and numbers of thousands of digits
        raise MissingInput(f"{path.name} is not JSON: {str(error)[:120]}") from error


def _items(page: object) -> list[object]:
    """Return the models of a page: it is one, or an API answer with several."""
    if isinstance(page, Mapping) and isinstance(page.get("items"), list):
        return list(page["items"])
    return [page]
