"""Does a list that is read page by page still lead anywhere?

A hub may send cursors that lead back, or ever new ones to the same experts, or to none, by mistake
or on purpose. Each walk over a list has a guard that says when to stop.
"""

from collections.abc import Iterable

MOST_FRUITLESS = 30  # pages in a row; a hub that filters behind its search sends some empty ones
MOST_PAGES = 50_000


class CursorGuard:
    """The cursors and experts of one walk over a list.

    Args:
        start: The cursor it begins at; None for the start of the list.
    """

    def __init__(self, start: str | None) -> None:
        self._passed = {start}
        self._met: set[str] = set()
        self._fruitless = 0

    def stop(self, names: Iterable[str], following: str | None) -> str | None:
        """Return why the list is not to be read on; None if it may be, or ends by itself.

        Args:
            names: Of the experts on the page that was read.
            following: The cursor of the next page; None behind the last one.
        """
        here = set(names)
        self._fruitless = 0 if here - self._met else self._fruitless + 1
        self._met |= here
        if following is None:
            return None
        if following in self._passed:
            return "its cursor leads back; not followed"
        self._passed.add(following)
        if self._fruitless >= MOST_FRUITLESS:
            return f"{MOST_FRUITLESS} pages one after the other brought no new expert; not read on"
        if len(self._passed) > MOST_PAGES:
            return f"it has more than {MOST_PAGES} pages; not read on"
        return None
