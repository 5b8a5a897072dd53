"""What does every live hub's crawler hold open? Connections, a loop to wait on, a downloader."""

from pathlib import Path
from threading import Lock
from typing import Self

from diffgraph.crawlers.crawler import Crawler
from diffgraph.crawlers.downloads import Downloader
from diffgraph.crawlers.web import Background, Web


class LiveCrawler(Crawler):
    """A hub that is read over HTTP; a context manager that closes what it opened.

    Args:
        web: Asks the hub.
        unfinished: Where files are kept that are not whole yet.
        downloader: Fetches files; one of our own by default.
    """

    def __init__(self, web: Web, unfinished: Path, downloader: Downloader | None) -> None:
        self._web, self._url = web, web.url
        self._unfinished = unfinished
        self._making = Lock()
        self._opened: Background | None = None
        self._given = downloader
        self._own: Downloader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a downloader that was given stays open."""
        if self._opened is not None:
            self._opened.wait(self._web.close())
            self._opened.close()
            self._opened = None
        if self._own is not None:
            self._own.close()
            self._own = None

    @property
    def is_remote(self) -> bool:
        """Whether reading on costs the hub something: it does."""
        return True

    @property
    def _background(self) -> Background:
        """Where requests run while others are dealt with."""
        with self._making:
            if self._opened is None:
                self._opened = Background()
            return self._opened

    @property
    def _downloader(self) -> Downloader:
        """Who fetches files; the token goes to the hub's own address only."""
        if self._given is not None:
            return self._given
        with self._making:  # threads that fetch ask for it at once
            if self._own is None:
                self._own = Downloader(self._unfinished, self._web.token, [self._url])
            return self._own
