"""What if a page of a hub's list is too large, or is no JSON?

It is read in smaller parts, so that one expert whose page breaks an answer costs that expert and
not the hundred around it.
"""

from diffgraph.crawlers.civitai_client import CivitaiClient, GarbledList, ModelPage, ModelQuery
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.web import BadAnswer, TokenRefused


class PageRead:
    """A page of the list, and what of it could not be read."""

    def __init__(self, page: ModelPage, broken: tuple[BrokenPage, ...] = ()) -> None:
        self.page = page
        self.broken = broken


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
            BadAnswer: Not even a page of one expert can be read.
            ServiceError: The hub fails or refuses.
        """
        is_repeated = False
        broken: list[BrokenPage] = []
        while True:
            try:
                page = await self.client.models(self.query, cursor, self.size)
            except TokenRefused as error:
                if not self.client.web.has_token:
                    raise
                self.client.web.forget_token()
                broken.append(BrokenPage(where="the token", reason=f"{error}; read on without it"))
            except BadAnswer as error:
                is_garbled = isinstance(error, GarbledList)
                if is_garbled and not is_repeated:
                    is_repeated = True  # it may have been an accident
                elif self.size > 1:
                    self.size = max(1, self.size // 10)
                elif isinstance(error, GarbledList) and error.next_cursor is not None:
                    where = f"the list at {cursor[:80]}" if cursor else "the start of the list"
                    broken.append(BrokenPage(where=where, reason=str(error)))
                    return PageRead(ModelPage((), error.next_cursor), tuple(broken))
                else:
                    raise
            else:
                self.size = min(self.largest, self.size * 10)
                return PageRead(page, tuple(broken))
