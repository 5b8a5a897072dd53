"""How is one list of a Hugging Face hub read to its end, whatever its pages are?

It goes on by the cursor in a `Link` header. A page that is too large, or that never comes though
the hub is there, is read in smaller parts; one that cannot be read ends the list, and is reported.

https://huggingface.co/docs/hub/api
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.cursor_guard import CursorGuard
from diffgraph.crawlers.huggingface_pages import repository_of
from diffgraph.crawlers.paging import PageReader, UnreadablePage
from diffgraph.crawlers.web import Background, BadAnswer, Query, Reply, Web, decoded
from diffgraph.errors import ServiceError

PATH = "/api/models"
CURSOR_CHARACTERS = 4000


@dataclass(frozen=True)
class PageOfList:
    """One answer, and the problems to report."""

    items: list[object]
    told: tuple[BrokenPage, ...] = ()


class HubList:
    """Reads a list.

    Args:
        web: Asks the hub.
        background: Where it is waited for.
        query: What is listed, without a limit.
        name: What the list is called in reports.
    """

    def __init__(self, web: Web, background: Background, query: Query, name: str) -> None:
        self._web, self._background = web, background
        self._query, self._name = query, name
        self.is_cut = False  # whether a page never came, so that what lies behind it was not read

    def pages(self) -> Iterator[PageOfList]:
        """Yield its pages.

        Raises:
            ServiceError: The hub fails or refuses, or its list cannot even be begun.
        """
        cursor, guard = None, CursorGuard(None)
        reader = PageReader(self._ask, self._web, self._web.config.page_size)
        while True:
            try:
                (items, link), told = self._background.wait(reader.read(cursor))
            except ServiceError as error:
                if cursor is None:
                    raise
                self.is_cut = True
                reason = error.error if isinstance(error, UnreadablePage) else error
                yield PageOfList([], (self._broken(f"not read on: {reason}"),))
                return
            cursor = _cursor_in(link)
            stop = guard.stop((str(repository_of(item)) for item in items), cursor)
            if cursor is None and link is not None:
                stop = "it goes on, and its cursor cannot be used"
            if stop is not None:
                told.append(self._broken(stop))
            yield PageOfList(items, tuple(told))
            if cursor is None or stop is not None:
                return

    def _broken(self, reason: str) -> BrokenPage:
        return BrokenPage(where=self._name, reason=reason)

    async def _ask(self, cursor: str | None, size: int) -> tuple[list[object], str | None]:
        """Return the items at a cursor, and the link behind them."""
        query = {**self._query, "limit": size} | ({} if cursor is None else {"cursor": cursor})
        reply = await self._web.ask("GET", PATH, query=query)
        return _items(reply), reply.next_link


def _items(reply: Reply) -> list[object]:
    items = decoded(reply.body, "the list of models")
    if not isinstance(items, list):
        raise BadAnswer("the list of models is no list")
    return items


def _cursor_in(address: str | None) -> str | None:
    """Return the cursor of the next page; its address could lead anywhere, and is not followed."""
    if address is None:
        return None
    try:
        found = next(iter(parse_qs(urlsplit(address).query).get("cursor", ())), None)
    except ValueError:
        return None
    return found if found is not None and len(found) <= CURSOR_CHARACTERS else None
