"""How is one list of a Hugging Face hub read to its end, whatever its pages are?

It goes on by the cursor in a `Link` header. A page that is too large, or that never comes though
the hub is there, is read in smaller parts; behind one that cannot be read, the list ends, told.

https://huggingface.co/docs/hub/api
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from diffgraph.crawlers.course import Course
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.huggingface_pages import repository_of
from diffgraph.crawlers.web import Background, BadAnswer, Query, Reply, TokenRefused, Web, decoded
from diffgraph.errors import ServiceError

PATH = "/api/models"
CURSOR_CHARACTERS = 4000


@dataclass(frozen=True)
class ListPage:
    """One answer, and what is to be told of it."""

    items: list[object]
    told: tuple[BrokenPage, ...] = ()


class HubList:
    """Reads a list.

    Args:
        web: Asks the hub.
        background: Where it is waited for.
        query: What is listed, without a limit.
        name: What the list is called where something is told of it.
    """

    def __init__(self, web: Web, background: Background, query: Query, name: str) -> None:
        self._web, self._background = web, background
        self._query, self._name = query, name
        self._size = web.config.page_size
        self.is_cut = False  # whether a page never came, so that what lies behind it was not read

    def pages(self) -> Iterator[ListPage]:
        """Yield its pages.

        Raises:
            ServiceError: The hub fails or refuses, or its list cannot even be begun.
        """
        cursor, course = None, Course(None)
        while True:
            told: list[BrokenPage] = []
            try:
                items, link = self._read(cursor, told)
            except ServiceError as error:
                if cursor is None:
                    raise
                self.is_cut = True
                yield ListPage([], (*told, self._broken(f"not read on: {error}")))
                return
            cursor = _cursor_in(link)
            stop = course.stop((str(repository_of(item)) for item in items), cursor)
            if cursor is None and link is not None:
                stop = "it goes on, and its cursor cannot be used"
            if stop is not None:
                told.append(self._broken(stop))
            yield ListPage(items, tuple(told))
            if cursor is None or stop is not None:
                return

    def _broken(self, reason: str) -> BrokenPage:
        return BrokenPage(where=self._name, reason=reason)

    def _read(self, cursor: str | None, told: list[BrokenPage]) -> tuple[list[object], str | None]:
        """Return the items at a cursor and the link behind them, in the largest size that comes."""
        while True:
            try:
                reply = self._ask(cursor, self._size)
                items = _items(reply)
            except ServiceError as error:
                if isinstance(error, TokenRefused) and self._web.has_token:
                    self._web.forget_token()
                    why = f"{error}; read on without it"
                    told.append(BrokenPage(where="the token", reason=why))
                    continue
                is_there = isinstance(error, BadAnswer) or (
                    cursor is not None and self._answers_elsewhere()
                )
                if self._size == 1 or not is_there:
                    raise
                self._size = max(1, self._size // 10)
            else:
                self._size = min(self._web.config.page_size, self._size * 10)
                return items, reply.next_link

    def _answers_elsewhere(self) -> bool:
        """Return whether the hub is there, so that it is this page that is not."""
        try:
            self._ask(None, 1)
        except ServiceError as error:
            return isinstance(error, BadAnswer)
        return True

    def _ask(self, cursor: str | None, size: int) -> Reply:
        query = {**self._query, "limit": size} | ({} if cursor is None else {"cursor": cursor})
        return self._background.wait(self._web.ask("GET", PATH, query=query))


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
