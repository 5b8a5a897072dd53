"""Which experts does a live hub offer that speaks Civitai's API?

The list is walked by cursor, newest first, and walked again until a walk brings nothing new: a hub
changes while it is read, and cursors have been seen to skip. Walks are cut into pages of different
sizes, so that what one drops between two pages the next one shows. Listings are told apart by id,
so none comes twice. Known experts that no walk has shown are asked for by their ids before they
count as gone. A journal in the home folder lets a crawl that was stopped go on where it was, behind
what was published since. What cannot be passed is gone round: the list is read from its other end.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from diffgraph.crawlers.civitai_client import CivitaiClient, ModelPage, ModelQuery
from diffgraph.crawlers.civitai_pages import read_page
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.cursor_guard import CursorGuard
from diffgraph.crawlers.downloads import Downloader
from diffgraph.crawlers.examining import in_utc
from diffgraph.crawlers.journal import CrawlJournal, PageRecord
from diffgraph.crawlers.live import LiveCrawler
from diffgraph.crawlers.paging import GarbledPage, PageReader, UnreadablePage
from diffgraph.crawlers.web import BadAnswer, NotFound
from diffgraph.errors import ServiceError, ServiceRefused, UnusableListing
from diffgraph.experts.expert import ExpertRef, Listing
from diffgraph.families import Family

log = logging.getLogger(__name__)

SOURCE = "civitai"
TYPES = ("Checkpoint", "LORA", "LoCon", "DoRA")
LESS_A_WALK = 14  # every walk's pages are smaller by such a part, so that they are cut elsewhere
IDS_AT_ONCE = 100
SINGLE_QUESTIONS = 500  # about experts that seem to have gone, in one crawl
NO_SCAN = "missing"
Reader = PageReader[ModelPage]


class PageRead(NamedTuple):
    """A page of the list, and what of it could not be read."""

    page: ModelPage
    broken: Sequence[BrokenPage]


class CivitaiCrawler(LiveCrawler):
    """Reads a hub over HTTP.

    Args:
        home: The home folder, where the crawl's journal and unfinished files are kept.
        family: Whose base models the hub is asked for.
        client: Asks the hub; by default civitai.com, anonymously.
        since: Nothing older is of interest.
        downloader: Fetches files; one of our own by default.
    """

    source = SOURCE

    def __init__(
        self,
        home: Path,
        family: Family,
        client: CivitaiClient | None = None,
        *,
        since: datetime | None = None,
        downloader: Downloader | None = None,
    ) -> None:
        self.repeated = 0  # listings that came once more, as cursors and changes have it
        self._since = since
        self._client = client or CivitaiClient()
        super().__init__(self._client.web, home / "library" / "unfinished", downloader)
        self._config = self._client.web.config
        base_models = tuple(name for name in family.hub_names if "/" not in name)
        self._query = ModelQuery(TYPES, base_models)
        question = {
            "url": self._url,
            "types": TYPES,
            "base models": base_models,
            "since": since and in_utc(since).isoformat(),
        }
        self._journal = CrawlJournal(home, SOURCE, question)
        self._seen = self._journal.refs
        self._before = frozenset(self._seen)
        self._told: set[BrokenPage] = set()
        self._read: list[PageRecord] = []  # yielded to their ends, not yet in the journal
        self._walked = False

    @property
    def read_before(self) -> Collection[str]:
        """What a crawl that was stopped had dealt with."""
        return self._before

    @property
    def is_whole(self) -> bool:
        """Whether an expert that was not yielded has gone from the hub."""
        return self._walked and self._since is None

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield every version of every expert, newest page first, each once."""
        self._told.update(self._journal.broken)
        yield from self._journal.broken
        walk, cursor, is_new = self._where_we_were()
        if cursor is not None:
            yield from self._published_since(walk, cursor)
        while walk <= self._config.passes:
            try:
                for entry in self._walk(walk, cursor):
                    is_new = is_new or isinstance(entry, Listing)
                    yield entry
            except BadAnswer as error:
                if self._query.oldest_first and not self._seen:
                    raise
                yield from self._news([BrokenPage(where="the list", reason=str(error))])
                is_new = not self._query.oldest_first  # what lies behind it has another end
                self._query = replace(self._query, oldest_first=True)
            if self._since is not None or (walk > 1 and not is_new):
                break
            walk, cursor, is_new = walk + 1, None, False
        self._walked = True

    def keep(self) -> None:
        """Write down which pages have been dealt with."""
        self._journal.append(self._read)
        self._read.clear()

    def finish(self) -> None:
        """Forget where we are: the crawl is over."""
        log.debug("%d listings came more than once", self.repeated)
        self._journal.close()

    def look_again(self, refs: Collection[str]) -> Iterator[Listing | BrokenPage]:
        """Ask by id for experts that the list did not show, and yield those still there."""
        if not self.is_whole:
            return
        missing = sorted({ExpertRef.parse(ref).model for ref in refs})
        found: set[str] = set()
        for start in range(0, len(missing), IDS_AT_ONCE):
            some = tuple(missing[start : start + IDS_AT_ONCE])
            page = self._wait_for(ModelQuery(ids=some), None, len(some))
            for item in page.items:
                if (number := _id_of(item)) in some:
                    found.add(number)
                    yield from self._unseen(item, set())
        gone = [number for number in missing if number not in found]
        for place, number in enumerate(gone):
            yield from self._ask_for(number, place)

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Download the listing's file into `folder`, checked against its hash."""
        file = listing.file
        if file is None or not file.url:
            raise UnusableListing("the page offers no file")
        return self._downloader.fetch(
            file.url,
            folder / f"{listing.ref.model}-{listing.ref.version}.safetensors",
            sha256=file.sha256,
            size_bytes=file.size_bytes,
        )

    def _where_we_were(self) -> tuple[int, str | None, bool]:
        """Return the walk to go on with, where, and whether it has brought anything new."""
        if not self._journal.records:
            return 1, None, False
        last = self._journal.records[-1]
        self._query = replace(self._query, oldest_first=last.oldest_first)
        is_new = any(record.refs for record in self._journal.records if record.walk == last.walk)
        if last.cursor is not None:
            return last.walk, last.cursor, is_new
        return last.walk + 1, None, False

    def _walk(self, walk: int, cursor: str | None) -> Iterator[Listing | BrokenPage]:
        """Walk the list from a cursor to its end; the next page is fetched meanwhile."""
        whole = self._config.page_size
        largest = max(1, whole - max(1, whole // LESS_A_WALK) * (walk - 1))
        reader = self._reader(self._query, largest)
        guard, page = CursorGuard(cursor), self._first(reader, cursor)
        while True:
            coming, following = None, page.page.next_cursor
            stop = guard.stop(map(_id_of, page.page.items), following)
            if page.page.is_cut:
                stop = "the list goes on, and its cursor cannot be used"
            if stop is not None:
                following = None
            if following is not None:
                coming = self._background.start(_page(reader, following))
            try:
                yield from self._entries(page, walk, following)
            except GeneratorExit:
                if coming is not None:
                    coming.cancel()
                raise
            if stop is not None:
                raise BadAnswer(stop)
            if coming is None or self._is_too_old(page.page):
                return
            try:
                page = coming.result()
            except ServiceRefused as error:
                raise BadAnswer(f"a page never comes: {error}") from None

    def _published_since(self, walk: int, goes_on: str) -> Iterator[Listing | BrokenPage]:
        """Yield what came to the top of the list since the crawl was stopped.

        Args:
            walk: The pass over the hub that was stopped.
            goes_on: The cursor where it will go on.
        """
        newest = replace(self._query, oldest_first=False)
        reader, cursor = self._reader(newest, self._config.page_size), None
        guard = CursorGuard(cursor)
        while True:
            try:
                page = self._background.wait(_page(reader, cursor))
            except BadAnswer as error:
                yield from self._news([BrokenPage(where="the newest pages", reason=str(error))])
                return
            known = len(self._seen)
            yield from self._entries(page, walk, goes_on)
            cursor = page.page.next_cursor
            is_over = cursor is None or len(self._seen) == known
            if is_over or guard.stop(map(_id_of, page.page.items), cursor) is not None:
                return

    def _reader(self, query: ModelQuery, largest: int) -> Reader:
        async def ask(cursor: str | None, size: int) -> ModelPage:
            return await self._client.models(query, cursor, size)

        return PageReader(ask, self._web, largest)

    def _first(self, reader: Reader, cursor: str | None) -> PageRead:
        """Return the page at a cursor; a cursor that the hub no longer knows starts anew."""
        try:
            return self._background.wait(_page(reader, cursor))
        except ServiceRefused as error:
            if cursor is None:
                raise
            log.info("%s; reading the list from its start", error)
            return self._background.wait(_page(reader, None))

    def _entries(
        self, read: PageRead, walk: int, following: str | None
    ) -> Iterator[Listing | BrokenPage]:
        """Yield what a page brings, then note that it was yielded to its end."""
        refs: list[str] = []
        broken: list[BrokenPage] = []
        here: set[str] = set()
        entries = (self._unseen(item, here) for item in read.page.items)
        for entry in self._news(chain(read.broken, chain.from_iterable(entries))):
            if isinstance(entry, Listing):
                refs.append(str(entry.ref))
            else:
                broken.append(entry)
            yield entry
        self._read.append(
            PageRecord(
                walk=walk,
                cursor=following,
                refs=tuple(refs),
                oldest_first=self._query.oldest_first,
                broken=tuple(broken),
            )
        )

    def _news(self, entries: Iterable[Listing | BrokenPage]) -> Iterator[Listing | BrokenPage]:
        """Yield these, less the broken pages that an earlier walk has told."""
        for entry in entries:
            if isinstance(entry, BrokenPage):
                if entry in self._told:
                    continue
                self._told.add(entry)
            yield entry

    def _unseen(self, item: object, here: set[str]) -> Iterator[Listing | BrokenPage]:
        """Yield the versions on a page that this crawl has not met; `here`, those of its answer."""
        url = f"{self._url}/models/{quote(_id_of(item), errors='replace')}"
        for entry in read_page(item, SOURCE, url):
            if isinstance(entry, BrokenPage):
                yield entry
                continue
            ref = str(entry.ref)
            if ref in here:
                yield BrokenPage(where=f"models/{entry.ref.model}", reason=f"{ref} is listed twice")
            elif ref in self._seen:
                self.repeated += 1
            else:
                self._seen.add(ref)
                yield self._completed(entry)
            here.add(ref)

    def _completed(self, listing: Listing) -> Listing:
        """Return a listing with what a page leaves to its readers."""
        file = listing.file
        if file is None:
            return listing
        address = file.url or f"/api/download/models/{listing.ref.version}"
        try:
            url = urljoin(f"{self._url}/", address)
            url = url if urlsplit(url).scheme in {"http", "https"} else ""
        except ValueError:
            url = ""
        return listing.model_copy(
            update={
                "file": file.model_copy(
                    update={
                        "url": url,
                        "pickle_scan": file.pickle_scan or NO_SCAN,
                        "virus_scan": file.virus_scan or NO_SCAN,
                    }
                )
            }
        )

    def _ask_for(self, number: str, place: int) -> Iterator[Listing | BrokenPage]:
        """Yield what the hub says of one expert; nothing if it has gone."""
        where = f"models/{number}"
        if place >= SINGLE_QUESTIONS:
            yield BrokenPage(where=where, reason="not in the list; asked for another time")
            return
        try:
            yield from self._unseen(self._background.wait(self._client.model(number)), set())
        except NotFound:
            return
        except ServiceError as error:
            yield BrokenPage(where=where, reason=str(error))

    def _wait_for(self, query: ModelQuery, cursor: str | None, limit: int) -> ModelPage:
        return self._background.wait(_page(self._reader(query, limit), cursor)).page

    def _is_too_old(self, page: ModelPage) -> bool:
        """Return whether a page, and so all behind it, was published before what interests us."""
        if self._since is None or not page.items:
            return False
        start = in_utc(self._since)
        moments = [
            entry.published_at
            for item in page.items
            for entry in read_page(item, SOURCE)
            if isinstance(entry, Listing) and entry.published_at is not None
        ]
        return bool(moments) and max(moments) < start


async def _page(reader: Reader, cursor: str | None) -> PageRead:
    """Return the page at a cursor; an empty one in the place of one that is garbled for good.

    Raises:
        ServiceRefused: It is refused, in any size.
        BadAnswer: It never comes, and the cursor of the next one is unknown.
    """
    try:
        return PageRead(*await reader.read(cursor))
    except UnreadablePage as never:
        error = never.error
        if isinstance(error, ServiceRefused):
            raise error from None
        if not isinstance(error, GarbledPage) or error.next_cursor is None:
            raise
        where = f"the list at {cursor[:80]}" if cursor else "the start of the list"
        told = BrokenPage(where=where, reason=str(error))
        return PageRead(ModelPage((), error.next_cursor), [told])


def _id_of(item: object) -> str:
    """Return the id a page has, as text; "" without one."""
    number = item.get("id") if isinstance(item, dict) else None
    return str(number)[:80] if isinstance(number, int | str) else ""
