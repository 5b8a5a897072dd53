"""What if a page of a hub's list is too large, is no JSON, or never comes though the hub is there?

It is read in smaller parts, so that one expert whose page breaks an answer costs that expert and
not the hundred around it.
"""

from typing import NamedTuple

from diffgraph.crawlers.civitai_client import CivitaiClient, GarbledList, ModelPage, ModelQuery
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.web import BadAnswer, TokenRefused
from diffgraph.errors import ServiceError, ServiceUnavailable


class PageRead(NamedTuple):
    """A page of the list, and what of it could not be read."""

    page: ModelPage
    broken: tuple[BrokenPage, ...] = ()


class PageReader:
    """Reads the pages of a list.

    Args:
        client: Asks the hub.
        query: What it lists.
        largest: Experts a page.
    """

    def __init__(self, client: CivitaiClient, query: ModelQuery, largest: int) -> None:
        self.client, self.query, self.largest = client, query, largest
        self.size = largest

    async def read(self, cursor: str | None) -> PageRead:
        """Return the page at a cursor; None is the start.

        Raises:
            BadAnswer: Not even a page of one expert can be read, and the hub answers elsewhere.
            ServiceError: The hub fails or refuses.
        """
        broken: list[BrokenPage] = []
        failures: list[ServiceUnavailable] = []
        while True:
            try:
                page = await self.client.models(self.query, cursor, self.size)
            except TokenRefused as error:
                if not self.client.web.has_token:
                    raise
                self.client.web.forget_token()
                broken.append(BrokenPage(where="the token", reason=f"{error}; read on without it"))
            except ServiceUnavailable as error:
                failures.append(error)
                if not await self._is_worth_another_try(failures, cursor):
                    return _behind(error, cursor, broken)
            else:
                self.size = min(self.largest, self.size * 10)
                return PageRead(page, tuple(broken))

    async def _is_worth_another_try(
        self, failures: list[ServiceUnavailable], cursor: str | None
    ) -> bool:
        """Return whether the same page, or the beginning of it, may come after all.

        Raises:
            ServiceUnavailable: The hub does not answer at all.
        """
        last = failures[-1]
        if isinstance(last, GarbledList) and len(failures) == 1:
            return True  # it may have been an accident
        if not isinstance(last, BadAnswer) and (
            cursor is None or not await self._answers_elsewhere()
        ):
            raise last
        return self._is_smaller()

    def _is_smaller(self) -> bool:
        """Have the next try ask for fewer experts; return whether that is possible."""
        is_possible = self.size > 1
        self.size = max(1, self.size // 10)
        return is_possible

    async def _answers_elsewhere(self) -> bool:
        """Return whether the hub is there, so that it is this page that is not."""
        try:
            await self.client.models(self.query, None, 1)
        except BadAnswer:
            return True
        except ServiceError:
            return False
        return True


def _behind(error: ServiceUnavailable, cursor: str | None, broken: list[BrokenPage]) -> PageRead:
    """Return an empty page in the place of one that cannot be read, if the list goes on behind it.

    Raises:
        BadAnswer: Nobody knows where.
    """
    if not isinstance(error, GarbledList) or error.next_cursor is None:
        raise error if isinstance(error, BadAnswer) else BadAnswer(f"a page never comes: {error}")
    where = f"the list at {cursor[:80]}" if cursor else "the start of the list"
    told = BrokenPage(where=where, reason=str(error))
    return PageRead(ModelPage((), error.next_cursor), (*broken, told))
