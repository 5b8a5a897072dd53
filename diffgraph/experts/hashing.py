"""How are many large files hashed? By a few threads, a few files ahead of who waits for them.

Hashing and reading leave Python to the other threads: on a network disk several files come faster
than one, and on several cores several are hashed at once. Each is kept when it is done, so that
whoever is stopped goes on with the rest.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from diffgraph.errors import ExpertError, MissingInput
from diffgraph.experts.expert import Expert, ExpertRef
from diffgraph.experts.references import Reference, References, mark_of
from diffgraph.progress import report

THREADS = 4
Outcome = Reference | ExpertError | MissingInput


LONG = 1 << 30  # bytes; hashing so many takes seconds, and tells how far it is
MEGABYTE = 1_000_000


class HashedBytes:
    """Tells how far the hashing of many files is, in megabytes."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.note = ""
        self._done = 0

    def told(self, count: int) -> None:
        """Report that so many bytes more are dealt with."""
        self._done += count
        done = min(self._done, self.total)
        report("hash, MB", done // MEGABYTE, self.total // MEGABYTE, self.note)

    def pass_by(self, sizes: Iterable[int]) -> None:
        """Report that files of these sizes are not hashed."""
        self.told(sum(sizes))


def hash_discovered(expert: Expert, references: References) -> Reference:
    """Return the reference of an expert's file in its place, which must be as it was discovered.

    Raises:
        MissingInput: It has gone, or is another one.
        DamagedFile: It cannot be read.
        StorageError: The home folder cannot be written.
    """
    place, version = Path(expert.place), ExpertRef.parse(expert.ref).version
    told = HashedBytes(expert.size_bytes).told if expert.size_bytes > LONG else None
    found = references.of(place, told) if mark_of(place) == version else None
    if found is None or expert.sha256 not in ("", found.sha256):
        raise MissingInput(f"{place} is another file since it was discovered: discover it again")
    if expert.stated_sha256 not in ("", found.sha256):
        why = "what lies beside it speaks of another file, by its hash: discover it again"
        raise MissingInput(f"{place}: {why}")
    return found


class _Cancelled(BaseException):
    """Nobody waits for this file any more."""


def hash_files(
    paths: Iterable[Path],
    references: References,
    on_bytes: Callable[[int], None] | None = None,
    threads: int = THREADS,
) -> Iterator[tuple[Path, Outcome]]:
    """Yield each file with its reference, or why it has none; in this order.

    Args:
        paths: The files.
        references: What is known of files, and where the rest is kept.
        on_bytes: Called from the threads with how many bytes more are dealt with; what it raises
            ends all of it.
        threads: How many hash at a time.

    Raises:
        StorageError: The home folder cannot be written.
    """
    is_over, turn = threading.Event(), threading.Lock()

    def told(count: int) -> None:
        if is_over.is_set():
            raise _Cancelled
        if on_bytes is not None:
            with turn:
                on_bytes(count)

    waiting: deque[tuple[Path, Future[Reference]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(references.of, path, on_bytes=told)))
                if len(waiting) >= 2 * threads:
                    yield _outcome(*waiting.popleft())
            while waiting:
                yield _outcome(*waiting.popleft())
        finally:
            is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _outcome(path: Path, coming: "Future[Reference]") -> tuple[Path, Outcome]:
    try:
        return path, coming.result()
    except (ExpertError, MissingInput) as error:
        return path, error
