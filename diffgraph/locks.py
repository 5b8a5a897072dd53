"""Locks that keep two processes from doing the same work in one place at once.

A lock a kind of work, below `locks/` of the home, or in the folder of a batch. The kernel holds it
(`flock`), so that it ends with its process, however that ends; on NFS the server does the same.
The process that holds it is written beside it, for the message of those that wait. What only reads
never waits.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import storing, write_text
from diffgraph.permissions import make_folder, mode_of
from diffgraph.progress import report

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.2
LOCKS = "locks"


class LockHolder(BaseModel, frozen=True):
    """The process that does the work."""

    work: str
    pid: int
    host: str
    since: datetime

    def __str__(self) -> str:
        since = f"{self.since:%Y-%m-%d %H:%M:%S}"
        return f"{self.work} by process {self.pid} on {self.host}, since {since}"


@contextmanager
def exclusive(folder: Path, work: str, at_once: int = 1) -> Iterator[None]:
    """Do work alone; wait for a process that does it already, and say so.

    Args:
        folder: where the lock is.
        work: what is done, the name of the lock.
        at_once: so many may do it beside each other; each holds a lock of its own.

    Raises:
        StorageError: the folder cannot be written, or its disk knows no locks.
    """
    with storing(folder):
        make_folder(folder)
        names = [work, *(f"{work}-{number}" for number in range(2, at_once + 1))]
        lock, about = _acquire([folder / f"{name}.lock" for name in names])
    try:
        write_text(about, _me(work).model_dump_json())
        yield
    finally:
        with contextlib.suppress(OSError):  # of a disk that fails: what failed first is told
            about.unlink(missing_ok=True)
        lock.release()


def _acquire(places: Sequence[Path]) -> tuple[FileLock, Path]:
    """Take one of the locks; report the holder that is waited for, whenever it changes.

    Returns:
        The lock, and the file that names its holder.
    """
    # a disk without locks is told: a file that stands for one would outlive its process
    locks = [FileLock(path, fallback_to_soft=False, mode=mode_of(path)) for path in places]
    told: LockHolder | None = None
    while True:
        for lock, path in zip(locks, places, strict=True):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            if told is not None:
                report("wait", 1, 1, "it has ended")
            return lock, path.with_suffix(".json")
        holder = _holder(places[0].with_suffix(".json"))
        if holder is not None and holder != told:
            log.warning("waiting for %s", holder)
            report("wait", 0, 1, str(holder))
            told = holder
        time.sleep(SECONDS_BETWEEN_TRIES)


def _holder(about: Path) -> LockHolder | None:
    try:
        return LockHolder.model_validate_json(about.read_bytes())
    except (OSError, ValidationError):
        return None  # has just begun or ended


def _me(work: str) -> LockHolder:
    return LockHolder(
        work=work, pid=os.getpid(), host=socket.gethostname(), since=datetime.now().astimezone()
    )
