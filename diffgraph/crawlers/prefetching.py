"""Fetches files in threads, a few ahead of the one that is judged.

Reading the pages of a hub and fetching its files are stages of their own: a slow file holds up no
page, and while one file is judged, the next are on their way. How many are fetched at the same
time is the `Downloader`'s to decide; here is only how many may lie ready.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from diffgraph.crawlers.crawler import BrokenPage, Crawler
from diffgraph.experts.expert import Listing

MOST_PREFETCHED = 4  # on their way or waiting to be judged; checkpoints have gigabytes


class PrefetchingCrawler(Crawler):
    """Wraps a crawler so that its files are fetched before they are asked for.

    Threads do not hold up the end of a process: what they were fetching, the next run goes on with.

    Args:
        crawler: Its `fetch` may be called from several threads.
        wanted: What will be asked for, in this order.
        folder: Where files wait, on the disk of the library.
        ahead: How many may be on their way or wait.
    """

    def __init__(
        self,
        crawler: Crawler,
        wanted: Sequence[Listing],
        folder: Path,
        ahead: int = MOST_PREFETCHED,
    ) -> None:
        self.source = crawler.source
        self._crawler = crawler
        self._folder = folder
        self._left = deque((str(one.ref), Future[Path]()) for one in wanted)
        self._work_left = iter(
            [(one, found) for one, (_, found) in zip(wanted, self._left, strict=True)]
        )
        self._guard = threading.Lock()  # of the iterator
        self._room = threading.Semaphore(ahead)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(ahead)]

    def __enter__(self) -> "PrefetchingCrawler":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._room.release(len(self._threads))

    def listings(self) -> Iterator[Listing | BrokenPage]:
        """Yield what the crawler yields."""
        return self._crawler.listings()

    def fetch(self, listing: Listing, folder: Path) -> Path:
        """Move the listing's file into `folder` as soon as it is here, and return its path.

        Raises:
            Whatever the crawler raised when it fetched it.
        """
        while self._left:
            ref, found = self._left.popleft()
            try:
                if ref == str(listing.ref):
                    file = found.result()
                    return file.replace(folder / file.name)
            finally:
                self._room.release()  # also for those that were passed over
        return self._crawler.fetch(listing, folder)

    def _work(self) -> None:
        while True:
            self._room.acquire()
            with self._guard:
                listing, found = next(self._work_left, (None, None))
            if listing is None or found is None or self._is_over.is_set():
                return
            try:
                found.set_result(self._crawler.fetch(listing, self._folder))
            except BaseException as error:  # is raised where the file is asked for
                found.set_exception(error)
