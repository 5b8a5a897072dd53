"""What if a page of a hub's list is too large, is no JSON, or never comes though the hub is there?

It is read in smaller parts, so that one expert whose page breaks an answer costs that expert and
not the hundred around it.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.web import BadAnswer, TokenRefused, Web
from diffgraph.errors import ServiceError

Page = TypeVar("Page")


class GarbledPage(BadAnswer):
    """A page that is not JSON, or no list; where to go on may still stand in it."""

    def __init__(self, why: str, next_cursor: str | None) -> None:
        super().__init__(why)
        self.next_cursor = next_cursor


class UnreadablePage(BadAnswer):
    """Not even a page of one expert can be read, and the hub answers elsewhere."""

    def __init__(self, error: ServiceError) -> None:
        is_told = isinstance(error, BadAnswer)
        super().__init__(str(error) if is_told else f"a page never comes: {error}")
        self.error = error


class PageReader(Generic[Page]):
    """Reads the pages of a list.

    Args:
        ask: Returns the page at a cursor (None is the start) with so many experts at most.
        web: The client.
        largest: Experts a page.
    """

    def __init__(
        self, ask: Callable[[str | None, int], Awaitable[Page]], web: Web, largest: int
    ) -> None:
        self._ask, self._web = ask, web
        self._largest = self._size = largest

    async def read(self, cursor: str | None) -> tuple[Page, list[BrokenPage]]:
        """Return the page at a cursor, in the largest size that comes, and problems to report.

        Raises:
            UnreadablePage: A page of one expert cannot be read, though the hub answers elsewhere.
            ServiceError: The hub fails or refuses.
        """
        told: list[BrokenPage] = []
        was_garbled = False
        while True:
            try:
                page = await self._ask(cursor, self._size)
            except ServiceError as error:
                if isinstance(error, TokenRefused) and self._web.has_token:
                    self._web.forget_token()
                    why = f"{error}; read on without it"
                    told.append(BrokenPage(where="the token", reason=why))
                elif isinstance(error, GarbledPage) and not was_garbled:
                    was_garbled = True  # it may have been an accident
                elif not isinstance(error, BadAnswer) and not await self._is_elsewhere(cursor):
                    raise
                elif self._size == 1:
                    raise UnreadablePage(error) from None
                else:
                    self._size = max(1, self._size // 10)
            else:
                self._size = min(self._largest, self._size * 10)
                return page, told

    async def _is_elsewhere(self, cursor: str | None) -> bool:
        """Return whether the hub is there, so that it is the page at a cursor that is not."""
        try:
            return cursor is not None and bool(await self._ask(None, 1))
        except ServiceError as error:
            return isinstance(error, BadAnswer)
