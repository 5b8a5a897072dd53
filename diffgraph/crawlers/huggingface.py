"""Which adapters and fine-tunes of a base does a Hugging Face hub offer?

The list is read newest first, for every name the base has (SD1.5 has two) and both relations. A
card costs a request of its own, so that of a commit which is known is not asked for again: a crawl
that was stopped lists once more and goes on with the cards that are missing.

The hub's addresses, tokens and fields are those of the library `huggingface_hub`; its requests are
our own, since its have no time-out, and end a list at the first item that is not as it should be.

https://huggingface.co/docs/hub/api
"""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, get_args
from urllib.parse import quote

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.civitai_pages import moment
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.downloads import Downloader
from diffgraph.crawlers.examining import in_utc
from diffgraph.crawlers.huggingface_files import DENOISERS, components_of
from diffgraph.crawlers.huggingface_list import HubList
from diffgraph.crawlers.huggingface_pages import (
    SOURCE,
    Relation,
    count_experts,
    file_url,
    parse_experts,
    reference_of,
    repository_of,
    repository_part,
)
from diffgraph.crawlers.live import LiveCrawler
from diffgraph.crawlers.web import (
    NotFound,
    Query,
    TokenRefused,
    Web,
    decoded,
)
from diffgraph.errors import (
    DamagedFile,
    InputError,
    MissingInput,
    ServiceError,
    ServiceUnavailable,
    UnusableListing,
)
from diffgraph.experts.expert import ExpertRef, Listing
from diffgraph.experts.joining import join_components
from diffgraph.experts.library import Library
from diffgraph.experts.peft_configuration import (
    MAX_CONFIG_BYTES,
    PEFT_FILE,
    PEFT_WEIGHTS,
    keep_configuration,
)
from diffgraph.families import Family

log = logging.getLogger(__name__)

HUGGINGFACE = "https://huggingface.co"
FIELDS = [
    "cardData",
    "siblings",
    "tags",
    "downloads",
    "createdAt",
    "lastModified",
    "gated",
    "disabled",
    "sha",
]
SORTS = ("lastModified", "createdAt", "downloads")
"""What cannot be passed in one order is elsewhere in another."""
CARDS_AT_ONCE = 8


class HuggingFaceCrawler(LiveCrawler):
    """Reads a hub over HTTP.

    Args:
        library: What is known so far; cards in it are not asked for again.
        family: Whose base models the hub is asked for.
        web: Asks the hub; by default huggingface.co, anonymously.
        since: Nothing older is of interest.
        downloader: Fetches files; one of our own by default.

    Raises:
        InputError: The family has no base there.
    """

    source = SOURCE

    def __init__(
        self,
        library: Library,
        family: Family,
        web: Web | None = None,
        *,
        since: datetime | None = None,
        downloader: Downloader | None = None,
    ) -> None:
        self.bases = tuple(name for name in family.hub_names if "/" in name)
        if not self.bases:
            raise InputError(f"{family.name} has no base model on Hugging Face to ask for")
        self._library = library
        self._since = since and in_utc(since)
        super().__init__(web or Web(HUGGINGFACE), library.folder / "unfinished", downloader)
        self._listed: set[str] = set()  # repositories
        self._shown: set[ExpertRef] = set()  # their experts
        self._told: set[BrokenPage] = set()
        self._is_whole = False

    @property
    def is_whole(self) -> bool:
        """Whether an expert that was not yielded has gone from the hub."""
        return self._is_whole and self._since is None

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every adapter and fine-tune of the family's bases, each once."""
        failures: list[ServiceError] = []
        for base, relation in product(self.bases, get_args(Relation)):
            try:
                yield from self._list(base, relation)
            except ServiceError as error:
                failures.append(error)
                if len(failures) > 1 and not self._listed:
                    raise failures[0] from None  # it is the hub, not one of its lists
                yield BrokenPage(where=f"the list of {base}", reason=str(error))
        self._is_whole = not failures

    def look_again(self, refs: Collection[str]) -> Iterator[Listing | BrokenPage]:
        """Yield the former commits of experts still there, and experts missing from the lists."""
        if not self.is_whole:
            return
        is_there: dict[str, bool] = dict.fromkeys(self._listed, True)
        for ref in map(ExpertRef.parse, refs):
            repository = repository_part(ref)
            if repository not in is_there:
                is_there[repository] = False
                for entry in self._ask_for(repository):
                    is_there[repository] = True
                    yield entry
            if not self.is_whole:
                return  # the hub no longer answers
            is_kept = self._library.get(str(ref)).status in {"ready", "superseded"}
            if is_there[repository] and is_kept and ref not in self._shown:
                shown = {other.lineage for other in self._shown}
                first = f"{SOURCE}:{repository}"
                if ref.lineage in shown or first not in shown:
                    yield from self._kept(str(ref))  # a former commit: it has not gone

    def _ask_for(self, repository: str) -> Iterator[Listing | BrokenPage]:
        """Yield what the hub says of a repository; nothing if it has gone."""
        path = f"/api/models/{quote(repository)}"
        try:
            item = decoded(self._wait(path, {"expand": FIELDS}), path)
            yield from self._read([item], "adapter")
        except (NotFound, TokenRefused):
            return  # gone, or no longer for the public: the hub does not say which
        except ServiceError as error:
            self._is_whole = not isinstance(error, ServiceUnavailable)
            yield BrokenPage(where=f"models/{repository}", reason=str(error))

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Download the listing's file into `folder`, checked against the hash the hub states.

        PEFT states the alphas of its weights in a file of its own: that of the same commit is put
        into the header of what has come.
        """
        file = listing.file
        if file is None or not file.url:
            raise UnusableListing("the page offers no file")
        if listing.gated and not self._web.has_token:
            raise UnusableListing(
                "its file is given to those who agreed to its terms: agree on its page, "
                "and set DIFFGRAPH_HUGGINGFACE_TOKEN"
            )
        files = self._stated(listing)
        stem = f"{listing.ref.model.replace('/', '-')}-{listing.ref.version}"
        target = folder / f"{stem}.safetensors"
        if PurePosixPath(file.name).parts[0] in DENOISERS:
            return self._joined(listing, files, target)
        configuration = None
        beside = str(PurePosixPath(file.name).with_name(PEFT_FILE))
        if PurePosixPath(file.name).name == PEFT_WEIGHTS and beside in files:
            configuration = self._configuration(listing, beside, files[beside][1])
        sha256, size = files.get(file.name, ("", 0))
        path = self._downloader.fetch(file.url, target, sha256=sha256, size_bytes=size)
        if configuration is not None:
            keep_configuration(path, configuration)
        return path

    def _joined(self, listing: Listing, files: Mapping[str, tuple[str, int]], target: Path) -> Path:
        """Download the components of a model in diffusers' layout, and make one file of them."""
        parts: dict[str, list[Path]] = {}
        try:
            for component, names in components_of(files).items():
                for number, name in enumerate(names):
                    repository = repository_part(listing.ref)
                    url = file_url(self._url, repository, _commit_of(listing), name)
                    sha256, size = files[name]
                    part = target.with_name(f"{target.stem}.{component}.{number}.safetensors")
                    self._downloader.fetch(url, part, sha256=sha256, size_bytes=size)
                    parts.setdefault(component, []).append(part)
            if not parts:
                raise UnusableListing("its folder no longer holds a denoiser's weights")
            try:
                join_components(parts, target)
            except DamagedFile as error:
                together = "".join(sha256_of(part) for own in parts.values() for part in own)
                found = hashlib.sha256(together.encode()).hexdigest()
                raise DamagedFile(str(error), found) from None
        finally:
            for part in (part for own in parts.values() for part in own):
                part.unlink(missing_ok=True)
        return target

    def _list(self, base: str, relation: Relation) -> Iterator[Listing | BrokenPage]:
        """Yield what one list brings."""
        for sort in SORTS:
            query: Query = {
                "filter": f"base_model:{relation}:{base}",
                "sort": sort,
                "expand": FIELDS,
            }
            pages = HubList(self._web, self._background, query, f"the list of {base}")
            for page in pages.pages():
                yield from (entry for entry in page.told if entry not in self._told)
                self._told.update(page.told)
                yield from self._read(page.items, relation)
                if sort == SORTS[0] and self._is_too_old(page.items):
                    return
            if not pages.is_cut:
                return

    def _read(self, items: list[object], relation: Relation) -> Iterator[Listing | BrokenPage]:
        """Yield a listing for every item, its card fetched where it is not known."""
        for start in range(0, len(items), CARDS_AT_ONCE):
            some = [item for item in items[start : start + CARDS_AT_ONCE] if self._is_new(item)]
            cards = self._background.wait(self._cards(some))
            for item, card in zip(some, cards, strict=True):
                where = f"models/{repository_of(item)}"
                if isinstance(card, ServiceError):
                    yield BrokenPage(where=where, reason=str(card))
                    continue
                try:
                    experts = parse_experts(item, card, relation, self.bases, self._url)
                    self._shown.update(listing.ref for listing in experts)
                    yield from experts
                    if (count := count_experts(item, relation)) > len(experts):
                        told = f"holds {count} experts: only {len(experts)} of them are taken"
                        yield BrokenPage(where=where, reason=told)
                except UnusableListing as error:
                    yield BrokenPage(where=where, reason=str(error))

    def _is_new(self, item: object) -> bool:
        """Return whether this crawl has not met the repository; what has no name is always new."""
        repository = repository_of(item)
        if repository is None:
            return True
        is_new = repository not in self._listed
        self._listed.add(repository)
        return is_new

    async def _cards(self, items: list[object]) -> list[str | ServiceError]:
        return await asyncio.gather(*(self._card(item) for item in items))

    async def _card(self, item: object) -> str | ServiceError:
        """Return a repository's README; that of a commit which is known comes from the library."""
        try:
            ref = reference_of(item)
        except UnusableListing:
            return ""  # it is told when it is read
        for known in self._kept(str(ref)):
            return known.description
        commit = item["sha"] if isinstance(item, Mapping) else ""
        path = f"/{quote(ref.model)}/resolve/{commit}/README.md"
        try:
            return (await self._web.get(path)).decode("utf-8", errors="replace")
        except NotFound:
            return ""  # it has none
        except ServiceError as error:
            # a gated repository keeps its card to itself too: what the list says is enough
            is_gated = isinstance(item, Mapping) and bool(item.get("gated"))
            return "" if is_gated else error

    def _kept(self, ref: str) -> Iterator[Listing]:
        """Yield the page that the library has of a commit, if it has one."""
        try:
            if self._library.find(ref) is not None:
                yield self._library.listing(ref)
        except MissingInput:
            log.info("the page of %s is lost and asked for again", ref)

    def _stated(self, listing: Listing) -> dict[str, tuple[str, int]]:
        """Return the SHA-256 and the size that the hub states for each file; "" and 0 if none."""
        path = f"/api/models/{quote(repository_part(listing.ref))}/revision/{_commit_of(listing)}"
        about = decoded(self._wait(path, {"blobs": "true"}), path)
        siblings = about.get("siblings") if isinstance(about, Mapping) else None
        found: dict[str, tuple[str, int]] = {}
        for file in siblings if isinstance(siblings, list) else ():
            name = file.get("rfilename") if isinstance(file, Mapping) else None
            if isinstance(name, str):
                stored: Any = file.get("lfs")
                stored = stored if isinstance(stored, Mapping) else {}
                sha256, size = stored.get("sha256"), stored.get("size", file.get("size"))
                found.setdefault(
                    name,
                    (
                        sha256 if isinstance(sha256, str) else "",
                        size if isinstance(size, int) and size > 0 else 0,
                    ),
                )
        return found

    def _configuration(self, listing: Listing, name: str, size: int) -> str | None:
        """Return PEFT's configuration of the listing's commit; None if it is not there after all.

        Raises:
            UnusableListing: It is too large to be one; without it the alphas would be guessed.
        """
        path = f"/{quote(repository_part(listing.ref))}/resolve/{_commit_of(listing)}/{quote(name)}"
        try:
            text = self._wait(path) if size <= MAX_CONFIG_BYTES else b""
        except NotFound:
            return None
        if max(size, len(text)) > MAX_CONFIG_BYTES:
            raise UnusableListing(
                f"its {PEFT_FILE} has {max(size, len(text))} bytes, expected {MAX_CONFIG_BYTES} "
                "at most"
            )
        return text.decode("utf-8", errors="replace")

    def _is_too_old(self, items: list[object]) -> bool:
        """Return whether a page, and so all behind it, is older than what interests us."""
        if self._since is None:
            return False
        dates = [item.get("lastModified") for item in items if isinstance(item, Mapping)]
        moments = [found for value in dates if (found := moment(value)) is not None]
        return bool(moments) and max(moments) < self._since

    def _wait(self, path: str, query: Query | None = None) -> bytes:
        return self._background.wait(self._web.get(path, query))


def _commit_of(listing: Listing) -> str:
    """Return the whole name of a listing's commit: the hub knows no short one."""
    url = listing.file.url if listing.file else ""
    return url.partition("/resolve/")[2].partition("/")[0]
