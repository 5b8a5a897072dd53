"""What was found about each file of a folder, until it or what lies beside it changes?

`library/folders/<name>.<family>.jsonl`: a line a file; a later one replaces it.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import append_lines, new_file, storing
from diffgraph.crawlers.file_page import FilePage
from diffgraph.crawlers.hash_lookup import HashAnswer
from diffgraph.experts.expert import Listing
from diffgraph.permissions import make_folder

SPARE_LINES = 1000


class Noted(BaseModel, frozen=True):
    """What was found about a file, until it or what lies beside it changes."""

    path: str
    stamp: str
    mark: str
    listing: Listing | None
    unread: tuple[tuple[str, str], ...] = ()
    stated: tuple[tuple[str, str], ...] = ()
    is_told: bool = False
    """Whether its header tells that it is the family's."""
    asked_at: datetime | None = None
    """When the hub was asked whose answer is in its page."""

    def lies(self, sha256: str) -> bool:
        """Return whether a sidecar in its page speaks of another file than the one of this hash."""
        return any(stated != sha256 for _, stated in self.stated)

    def is_of(self, stamp: str, sha256: str, answer: HashAnswer | None) -> bool:
        """Return whether it holds of a file with this stamp, hash ("": not known) and answer."""
        asked_at = answer.asked_at if answer else None
        return self.stamp == stamp and self.asked_at == asked_at and not (
            sha256 and self.lies(sha256)
        )  # fmt: skip

    def with_page(self, page: FilePage, answer: HashAnswer | None) -> "Noted":
        """Return the same with another page, for which a hub gave this answer."""
        return self.model_copy(
            update={
                "listing": page.listing,
                "unread": page.unread,
                "stated": page.stated,
                "is_told": page.is_told,
                "asked_at": answer.asked_at if answer else None,
            }
        )


class NotedFiles(dict[str, Noted]):
    """What was found about files, by path.

    Args:
        table: Where it is kept.
    """

    def __init__(self, table: Path) -> None:
        super().__init__()
        self._table, self._lines = table, 0
        self._new: list[Noted] = []
        try:
            with table.open("rb") as file:
                for line in file:
                    self._lines += 1
                    self._take(line)
        except OSError:
            pass  # none yet

    def note(self, noted: Noted) -> None:
        """Add what was found about a file."""
        self[noted.path] = noted
        self._new.append(noted)

    def keep(self) -> None:
        """Write down what was added; raises `StorageError`."""
        if self._new:
            with storing(self._table):
                make_folder(self._table.parent)
            append_lines(self._table, b"".join(map(_line, self._new)))
            self._lines += len(self._new)
            self._new.clear()

    def keep_only(self, seen: Collection[Noted]) -> None:
        """Forget all others when there are many lines of them; raises `StorageError`."""
        if self._lines > 2 * len(seen) + SPARE_LINES:
            _write(self._table, seen)

    def _take(self, line: bytes) -> None:
        try:
            noted = Noted.model_validate_json(line)
        except ValidationError:
            return  # torn by a crash: that file is looked at again
        self[noted.path] = noted


def _write(table: Path, seen: Iterable[Noted]) -> None:
    with new_file(table) as part, part.open("wb") as file:
        for one in seen:
            file.write(_line(one))


def _line(noted: Noted) -> bytes:
    return noted.model_dump_json().encode() + b"\n"
