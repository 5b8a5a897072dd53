"""What is already here of a file that did not come whole?

Two files below the downloads folder, named by a hash of what is fetched: `<key>.part` holds the
bytes, `<key>.json` what they are the beginning of.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import lock_at, new_file, storing, write_text
from diffgraph.permissions import make_folder, opener

STALE_SECONDS = 14 * 24 * 3600.0
START_BYTES = 64


class _About(BaseModel):
    """What the server said when the first byte came."""

    validator: str = ""
    total: int | None = None


class PartialFile:
    """A partly downloaded file, locked by the process that fetches it.

    Attributes:
        path: Where its bytes are.
        total: How many there will be; None if the server does not say.
        validator: What the server calls this content, for `If-Range`; "" if it does not.
    """

    def __init__(self, folder: Path, key: str) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self.path = folder / f"{name}.part"
        self._about = folder / f"{name}.json"
        self.validator = ""
        self.total: int | None = None

    @classmethod
    @contextmanager
    def of(cls, folder: Path, key: str) -> Iterator["PartialFile"]:
        """Yield the part of what is fetched under `key`; another process waits."""
        part = cls(folder, key)
        with storing(folder):
            make_folder(folder)
            # a few locks for all files: no lock can be removed safely
            lock = lock_at(folder / f".{part.path.name[:2]}.lock")
            lock.acquire()
        try:
            part._read()
            yield part
        finally:
            lock.release()

    @property
    def size(self) -> int:
        """How many bytes are here."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here, by the size that the server stated."""
        return self.total is not None and self.size == self.total > 0

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest, if it is still the same file."""
        if not self.size:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        return headers | ({"If-Range": self.validator} if self.validator else {})

    def start(self) -> bytes:
        """Return the first bytes."""
        with self.path.open("rb") as file:
            return file.read(START_BYTES)

    def begin(self, validator: str, total: int | None) -> None:
        """Note what the bytes to come belong to, before the first of them is kept."""
        if (validator, total) != (self.validator, self.total) or not self._about.exists():
            self.validator, self.total = validator or self.validator, total
            about = _About(validator=self.validator, total=total)
            write_text(self._about, about.model_dump_json())

    def append(self, data: bytes) -> None:
        """Keep bytes that came."""
        with storing(self.path), open(self.path, "ab", opener=opener) as file:
            file.write(data)

    def clear(self) -> None:
        """Forget all that came."""
        with storing(self.path):
            self._about.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def finish(self, target: Path) -> Path:
        """Put the whole file in place and return it."""
        with storing(target):
            make_folder(target.parent)
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            if self.path.stat().st_dev == target.parent.stat().st_dev:
                self.path.replace(target)
            else:
                with new_file(target) as copy:
                    shutil.copyfile(self.path, copy)
        self.clear()
        return target

    def _read(self) -> None:
        """Read what is known of the bytes that are here; without it they are worth nothing."""
        try:
            about = _About.model_validate_json(self._about.read_bytes())
        except (OSError, ValidationError):
            self.clear()
            return
        self.validator, self.total = about.validator, about.total


def sweep(folder: Path) -> None:
    """Remove partial files that are two weeks old."""
    for left in (*folder.glob("*.part"), *folder.glob("*.json")):
        with storing(left), suppress(FileNotFoundError):  # a run beside this one has finished it
            if left.stat().st_mtime < time.time() - STALE_SECONDS:
                left.unlink()
