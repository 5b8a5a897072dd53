"""A server of one file that can be told to misbehave, and how it is asked, for tests."""

import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from diffgraph.crawlers.downloads import DownloadConfig, Downloader

CONTENT = bytes(range(256)) * 1024  # 256 KiB


SHA256 = hashlib.sha256(CONTENT).hexdigest()


TOKEN = "a-secret-token"


FAST = DownloadConfig(
    tries=3, first_wait=0.001, longest_wait=0.05, timeout=5.0, spare_bytes=0, largest_bytes=1 << 20
)


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's next scripted answer, or else with the file, ranges and all."""

    protocol_version = "HTTP/1.1"
    server: "FileServer"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        script = self.server.script
        answer = script.pop(0) if script else send_file
        answer(self)

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class FileServer(ThreadingHTTPServer):
    """Serves one file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"v1"'
        self.script: list[Answer] = []
        self.seen: list[tuple[str, dict[str, str]]] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/api/download/models/7"

    def headers(self, name: str) -> list[str | None]:
        """What each request said under a header."""
        return [headers.get(name) for _, headers in self.seen]


def send_file(handler: Handler) -> None:
    server = handler.server
    wanted = handler.headers.get("Range")
    fits = handler.headers.get("If-Range", server.etag) == server.etag
    if not wanted or not fits:
        handler.head(200, ETag=server.etag, Content_Length=len(server.content))
        handler.wfile.write(server.content)
        return
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    total = len(server.content)
    if start >= total:
        handler.head(416, Content_Range=f"bytes */{total}", Content_Length=0)
        return
    rest = server.content[start:]
    stated = f"bytes {start}-{total - 1}/{total}"
    handler.head(206, ETag=server.etag, Content_Range=stated, Content_Length=len(rest))
    handler.wfile.write(rest)


def say(status: int, body: bytes = b"", **headers: Any) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def fetch(
    server: FileServer, tmp_path: Path, config: DownloadConfig = FAST, url: str = "", **about: Any
) -> Path:
    token = SecretStr(TOKEN)
    with Downloader(tmp_path / "downloads", token, [server.origin], config) as downloader:
        about = {"sha256": SHA256} | about
        return downloader.fetch(url or server.url, tmp_path / "file.safetensors", **about)


def left(tmp_path: Path) -> list[str]:
    """What is left of a download that has ended, for better or worse."""
    return [file.name for file in (tmp_path / "downloads").iterdir() if file.suffix != ".lock"]
