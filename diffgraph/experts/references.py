"""Where are the files that stay in their owner's folders, and are they still what they were?

`library/references.jsonl` has a line for every file that was hashed: its path, size, time of last
change and SHA-256. Whoever hashed half of a folder goes on with the other half; a file of another
size or time counts as another file. Nothing of ours is ever written beside it.
"""

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from diffgraph.artifacts import append_lines, holding, lock_at
from diffgraph.errors import DamagedFile
from diffgraph.foreign_files import open_foreign

log = logging.getLogger(__name__)

SEALED = 0o400
"""Weights are mapped into memory: whoever cuts one short while it is used kills the process."""
READ_BYTES = 1 << 20
SAMPLE_BYTES = 64 << 10
LARGEST_FILE = 64 << 30  # bytes
LOCK_SECONDS = 60.0


class Reference(BaseModel, frozen=True):
    """A file in its place, as it was when it was hashed."""

    path: str
    size_bytes: int
    changed_ns: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def may_be_cut(path: Path) -> bool:
    """Return whether somebody may cut a file short while it is used, which ends who mapped it.

    True of all but what a library has sealed: files that stay in their owner's folder above all.
    """
    try:
        return stat.S_IMODE(path.stat().st_mode) != SEALED
    except OSError:
        return True


def mark_of(file: Path) -> str:
    """Return 12 hex digits that tell files apart: of its size, beginning, middle and end.

    Raises:
        MissingInput: It cannot be read.
    """
    with open_foreign(file, LARGEST_FILE) as opened:
        size = os.fstat(opened.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        middle = max(0, size // 2 - SAMPLE_BYTES // 2)
        for start in sorted({0, middle, max(0, size - SAMPLE_BYTES)}):
            digest.update(os.pread(opened.fileno(), SAMPLE_BYTES, start))
    return digest.hexdigest()[:12]


class References:
    """Files in their places, by path and by hash.

    Args:
        path: The table; nothing is written before the first file is hashed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_at(path.parent / f".{path.stem}.lock", timeout=LOCK_SECONDS)
        self._by_path: dict[str, Reference] = {}
        self._by_hash: dict[str, dict[str, None]] = {}  # paths, the latest last
        self._read_to = self._inode = 0
        self._turn = threading.RLock()  # of threads; the lock is of processes

    def path_of(self, sha256: str) -> Path | None:
        """Return where a file with this content is, by its size and time; None if nowhere."""
        self._look()
        for path in reversed(self._by_hash.get(sha256, {})):
            if self.known(Path(path)) is not None and self._by_path[path].sha256 == sha256:
                return Path(path)
        return None

    def last_place(self, sha256: str) -> str:
        """Return, in words, where a file with this content was last; "" if it never was."""
        places = list(self._by_hash.get(sha256, {}))
        return f"at {places[-1]}, where it was" if places else ""

    def known(self, path: Path) -> Reference | None:
        """Return what is known of a file that has not changed since it was hashed."""
        self._look()
        found = self._by_path.get(str(path))
        try:
            about = path.stat()
        except (OSError, ValueError):
            return None
        is_same = found and (found.size_bytes, found.changed_ns) == (
            about.st_size,
            about.st_mtime_ns,
        )
        return found if is_same else None

    def of(self, path: Path, on_bytes: Callable[[int], None] | None = None) -> Reference:
        """Return a file's reference, hashed now unless it is known, and keep it.

        Args:
            path: The file.
            on_bytes: Called with how many bytes more are dealt with; what it raises ends it.

        Raises:
            MissingInput: It is not there, is no plain file, or is too large.
            DamagedFile: It cannot be read, or was changed meanwhile.
            StorageError: The home folder cannot be written.
        """
        on_bytes = on_bytes or (lambda _: None)
        if (found := self.known(path)) is not None:
            on_bytes(found.size_bytes)
            return found
        digest, part = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
        with open_foreign(path, LARGEST_FILE) as file:
            before = os.fstat(file.fileno())
            try:
                while count := file.readinto(part):  # type: ignore[attr-defined]
                    digest.update(part[:count])
                    on_bytes(count)
            except OSError as error:
                raise DamagedFile(f"{path.name} cannot be read: {error.strerror}") from error
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DamagedFile(f"{path.name} was changed while it was read: it is tried again")
        found = Reference(
            path=str(path),
            size_bytes=after.st_size,
            changed_ns=after.st_mtime_ns,
            sha256=digest.hexdigest(),
        )
        with self._turn, holding(self._lock):
            append_lines(self.path, found.model_dump_json().encode() + b"\n")
        return found

    def _look(self) -> None:
        """Read what was appended since the last look."""
        try:
            with self._turn, self.path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._inode or about.st_size < self._read_to:
                    self._by_path, self._by_hash = {}, {}
                    self._inode, self._read_to = about.st_ino, 0
                if about.st_size == self._read_to:
                    return
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # is being written, or was torn by a crash
                    self._read_to += len(line)
                    self._take(line)
        except (FileNotFoundError, NotADirectoryError):
            self._by_path, self._by_hash, self._inode, self._read_to = {}, {}, 0, 0

    def _take(self, line: bytes) -> None:
        try:
            found = Reference.model_validate_json(line)
        except ValidationError:
            log.warning(
                "%s: a damaged line counts as not there: its file is hashed again", self.path
            )
            return
        self._by_path[found.path] = found
        places = self._by_hash.setdefault(found.sha256, {})
        places.pop(found.path, None)
        places[found.path] = None
