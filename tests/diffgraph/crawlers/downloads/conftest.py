"""Servers for the tests of this folder."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.diffgraph.crawlers.downloads.file_server import FileServer


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as found:
        yield found


@pytest.fixture
def other() -> Iterator[FileServer]:
    with serving() as found:
        yield found
