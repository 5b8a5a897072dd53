"""How are thousands of small JSON texts kept, each found by its key?

One file of lines, `{"key":"…","value":…}`, that is only appended to: a thousand texts cost one
flush to the disk instead of a thousand, and a run that is killed loses at most the line it was
writing, which the next writer removes. Readers keep the places of the lines in memory and look at
what was appended since; they never wait for a writer.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from diffgraph.artifacts import append_lines, holding, lock_at, new_file

log = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{16,64}")
START = b'{"key":"'
MIDDLE = b'","value":'
LOCK_SECONDS = 60.0


class LineStore:
    """JSON texts by key, a hash in hex; what is kept under a key does not change.

    Args:
        path: The file; nothing is written before the first text is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_at(path.parent / f".{path.stem}.lock", timeout=LOCK_SECONDS)
        self._guard = threading.RLock()  # of what follows
        self._places: dict[str, tuple[int, int]] = {}  # key → first byte and length of its line
        self._inode = 0
        self._read_to = 0  # behind the last whole line that was looked at

    def __contains__(self, key: str) -> bool:
        """Return whether a text is kept under this key."""
        return key in self._places or key in self._look()

    def __len__(self) -> int:
        return len(self._look())

    def keys(self) -> frozenset[str]:
        """Return the keys of all texts."""
        return frozenset(self._look())

    def get(self, key: str) -> bytes | None:
        """Return the JSON text under a key; None if there is none."""
        for _ in range(2):
            place = self._places.get(key) or self._look().get(key)
            if place is None:
                return None
            value = _value_of(self._line(*place), key)
            if value is not None:
                return value
            self._forget()  # the file was rewritten since we looked
        return None

    def is_whole(self, key: str) -> bool:
        """Return whether a text is kept under this key, and is JSON."""
        text = self.get(key)
        try:
            return text is not None and json.loads(text) is not None
        except (ValueError, RecursionError):
            return False

    def add(self, texts: Iterable[tuple[str, str]]) -> None:
        """Keep texts, each one line of JSON, in one write; those that are kept whole stay.

        Raises:
            StorageError: The file cannot be written; it is as it was.
        """
        new = {key: text for key, text in texts if not self.is_whole(key)}
        if not new:
            return
        with holding(self._lock):
            lines = [_line(key, text) for key, text in new.items() if not self.is_whole(key)]
            append_lines(self.path, b"".join(lines))
        self._look()  # those that replace others are where they are now

    def put(self, texts: Iterable[tuple[str, str]]) -> None:
        """Keep texts in one write, in place of those under the same keys.

        Raises:
            StorageError: The file cannot be written; it is as it was.
        """
        lines = [_line(key, text) for key, text in texts]
        if lines:
            with holding(self._lock):
                append_lines(self.path, b"".join(lines))
            self._look()

    def keep_only(self, keys: Collection[str]) -> None:
        """Rewrite the file without what is kept under other keys."""
        with holding(self._lock):
            kept = [place for key, place in self._look().items() if key in keys]
            with new_file(self.path) as part, part.open("wb") as file:
                for place in sorted(kept):
                    file.write(self._line(*place))
            self._forget()

    def _look(self) -> dict[str, tuple[int, int]]:
        """Return the places of all lines, those that were appended since the last look included."""
        with self._guard:
            try:
                with self.path.open("rb") as file:
                    self._read_on(file)
            except (FileNotFoundError, NotADirectoryError):
                self._forget()
            return self._places

    def _read_on(self, file: BinaryIO) -> None:
        about = os.fstat(file.fileno())
        if about.st_ino != self._inode or about.st_size < self._read_to:
            self._forget()
            self._inode = about.st_ino
        file.seek(self._read_to)
        damaged = 0
        for line in file:
            if not line.endswith(b"\n"):
                break  # is being written, or was torn by a crash
            key = _key_of(line)
            if key is not None:
                self._places[key] = (self._read_to, len(line))
            else:
                damaged += 1
            self._read_to += len(line)
        if damaged:
            log.warning("%s: %d lines are damaged and count as not there", self.path, damaged)

    def _line(self, start: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def _forget(self) -> None:
        with self._guard:
            self._places, self._inode, self._read_to = {}, 0, 0


def _line(key: str, text: str) -> bytes:
    if KEY.fullmatch(key) is None or "\n" in text:
        raise ValueError(f"not a hash in hex and one line of JSON: {key!r}, {text[:40]!r}")
    return START + key.encode() + MIDDLE + text.encode() + b"}\n"


def _key_of(line: bytes) -> str | None:
    end = line.find(MIDDLE, len(START), len(START) + 64 + len(MIDDLE))
    if not line.startswith(START) or end < 0 or not line.endswith(b"}\n"):
        return None
    key = line[len(START) : end].decode("ascii", "replace")
    return key if KEY.fullmatch(key) else None


def _value_of(line: bytes, key: str) -> bytes | None:
    start = START + key.encode() + MIDDLE
    if not line.startswith(start) or not line.endswith(b"}\n"):
        return None
    return line[len(start) : -2]
