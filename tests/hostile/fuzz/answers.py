"""Servers that answer as they like: to a download, and to a page of a list."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from diffgraph.crawlers.downloads import DownloadConfig, Downloader
from diffgraph.crawlers.web import Web, WebConfig
from diffgraph.errors import ExpertError, ServiceError
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import changed, to_json, values
from tests.servers.local_server import LocalServer, Reply, Request

CONTENT = bytes(range(256)) * 16
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = 0.5  # seconds that a server may be silent
DOWNLOADS = DownloadConfig(
    tries=2, first_wait=0.001, longest_wait=0.01, timeout=PATIENCE, spare_bytes=0
)
LISTS = WebConfig(
    tries=2,
    first_wait=0.001,
    longest_wait=0.01,
    longest_retry_after=0.01,
    silence=PATIENCE,
    longest_answer=2 * PATIENCE,
    largest_answer=1 << 20,
)


class Scripted(LocalServer):
    """Gives the answers it was told, then the right one for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Reply] = []

    def answer(self, request: Request) -> Reply:
        return self.script.pop(0) if self.script else Reply(200, CONTENT)


@cache
def _server() -> Scripted:
    return Scripted().__enter__()  # its thread ends with the process


@contextmanager
def _scripted(replies: list[Reply]) -> Iterator[str]:
    server = _server()
    server.script = list(replies)
    yield server.url


STATUSES = st.sampled_from(
    [200, 200, 200, 204, 206, 301, 302, 307, 400, 401, 403, 404, 410, 416, 418, 429, 500, 503, 599]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Encoding",
            "Content-Length",
            "Content-Range",
            "Content-Type",
            "ETag",
            "Last-Modified",
            "Link",
            "Location",
            "RateLimit",
            "Retry-After",
            "Transfer-Encoding",
        ]
    ),
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "7",
            "4096",
            "99999999999999999999",
            "gzip",
            "gzip, gzip",
            "br",
            "identity",
            "chunked",
            "bytes 0-4095/4096",
            "bytes 100-4095/4096",
            "bytes 9-1/*",
            "bytes */4096",
            "text/html",
            "application/octet-stream",
            '"v1"',
            'W/"v1"',
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Thu, 99 Xyz 9999",
            '"api";r=0;t=9',
            "/",
            "//",
            "http://[::1",
            "http://127.0.0.1:1/",
            "http://169.254.169.254/latest",
            "ftp://127.0.0.1/x",
            "javascript:alert(1)",
            "/again?" + "a" * 3_000,
            '<http://127.0.0.1:1/>; rel="next"',
        ]
    ),
    max_size=4,
)
BODIES = st.one_of(
    st.sampled_from(
        [
            CONTENT,
            CONTENT[:100],
            CONTENT[100:],
            CONTENT + b"x",
            b"",
            b"<!DOCTYPE html>",
            bytes(4096),
        ]
    ),
    st.binary(max_size=64),
)
replies = st.builds(
    Reply, STATUSES, BODIES, HEADERS, cut=st.none() | st.sampled_from([0, 1, 100, 4095])
)

downloads = st.lists(replies, max_size=4)
"""What a storage host answers before it comes to its senses."""


def whole_or_refused(script: list[Reply], folder: Path) -> None:
    """A file is the one its page speaks of; or it is refused, and nothing lies in its place."""
    target = folder / "weights.safetensors"
    with (
        _scripted(script) as url,
        Downloader(folder / "unfinished", config=DOWNLOADS) as downloader,
    ):
        try:
            downloader.fetch(f"{url}/file", target, sha256=SHA256)
        except (ExpertError, ServiceError) as error:
            demand_a_line(error)
            assert not target.exists()
            return
    assert target.read_bytes() == CONTENT


@st.composite
def _lists(draw: st.DrawFn) -> list[Reply]:
    items = {"items": [{"id": 1}], "metadata": {"nextCursor": "abc"}}
    bodies = st.one_of(changed(items).map(to_json), values.map(to_json), BODIES)
    return draw(st.lists(st.builds(Reply, STATUSES, bodies, HEADERS), min_size=1, max_size=3))


lists = _lists()
"""What a hub answers when it is asked for a page of its list."""


def read_or_refused(script: list[Reply], folder: Path) -> None:
    """An answer is the body that came, decoded; or an error of ours in a line."""

    async def ask(url: str) -> Any:
        web = Web(url, None, LISTS)
        try:
            return await web.get("/api/v1/models", {"limit": 100})
        finally:
            await web.close()

    with _scripted(script) as url:
        try:
            body = asyncio.run(ask(url))
        except ServiceError as error:
            demand_a_line(error)
            return
    assert len(body) <= LISTS.largest_answer
