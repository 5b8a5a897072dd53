"""Where was a crawl when it was stopped?

One line a page below `home/crawls`, appended when everything on the page has been dealt with. A
line that a crash has torn is dropped: its page is read again, and what is known is not done twice.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import storing
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.permissions import make_folder, opener

log = logging.getLogger(__name__)

STALE_SECONDS = 7 * 24 * 3600.0  # a cursor of last week leads nowhere


class PageRecord(BaseModel, frozen=True):
    """One page that has been dealt with."""

    walk: int  # the pass over the hub, from 1
    cursor: str | None  # where that pass goes on; None behind its last page
    refs: tuple[str, ...]
    oldest_first: bool = False
    broken: tuple[BrokenPage, ...] = ()


class CrawlJournal:
    """What one crawl of a hub has dealt with so far.

    Args:
        home: The home folder.
        source: The hub's name.
        question: What was asked of it; another question is another crawl.
    """

    def __init__(self, home: Path, source: str, question: dict[str, Any]) -> None:
        text = json.dumps(question, sort_keys=True)
        name = f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
        self.path = home / "crawls" / name
        self.records: list[PageRecord] = []
        self._start = 0
        self._read()

    @property
    def refs(self) -> set[str]:
        """All experts on the pages so far."""
        return {ref for record in self.records for ref in record.refs}

    @property
    def broken(self) -> tuple[BrokenPage, ...]:
        """All pages so far that could not be read."""
        return tuple(page for record in self.records for page in record.broken)

    def append(self, records: Iterable[PageRecord]) -> None:
        """Keep that these pages have been dealt with."""
        new = list(records)
        if not new:
            return
        data = "".join(record.model_dump_json() + "\n" for record in new).encode()
        with storing(self.path):
            make_folder(self.path.parent)
            with open(self.path, "ab", opener=opener) as file:
                if file.tell() != self._start:
                    file.truncate(self._start)  # a torn line, or what a full disk left
                file.write(data)
        self._start += len(data)
        self.records.extend(new)

    def close(self) -> None:
        """The crawl is over: the next one begins anew."""
        self.path.unlink(missing_ok=True)
        self.records = []
        self._start = 0

    def _read(self) -> None:
        for path in self.path.parent.glob("*.jsonl"):
            if path.stat().st_mtime < time.time() - STALE_SECONDS:
                log.info("%s is too old to go on from", path)
                path.unlink(missing_ok=True)
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        lines.pop()  # behind the last newline: nothing, or a torn line
        for line in lines:
            try:
                record = PageRecord.model_validate_json(line)
            except ValidationError:
                break  # whatever comes behind is read again
            self.records.append(record)
            self._start += len(line) + 1
