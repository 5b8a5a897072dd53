"""A file comes whole and right, or not at all; and the token stays at home."""

import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from diffgraph.crawlers.downloads import DownloadConfig, Downloader
from diffgraph.errors import (
    DamagedFile,
    DiffgraphError,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UnusableListing,
)
from diffgraph.fetching.gate import Gate
from tests.servers.names import Names
from tests.servers.raw_server import RawServer, Talk, drip_body, drip_headers, say_nothing
from tests.waiting import PATIENCE, wait_for

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


def ignore_range(handler: Handler) -> None:
    handler.head(200, ETag=handler.server.etag, Content_Length=len(handler.server.content))
    handler.wfile.write(handler.server.content)


def hang_up_after(count: int, **headers: Any) -> Answer:
    def answer(handler: Handler) -> None:
        stated = {"ETag": handler.server.etag, "Content_Length": len(CONTENT)} | headers
        handler.head(200, **{name: value for name, value in stated.items() if value is not None})
        handler.wfile.write(CONTENT[:count])
        handler.close_connection = True

    return answer


def say(status: int, body: bytes = b"", **headers: Any) -> Answer:
    def answer(handler: Handler) -> None:
        handler.head(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


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


def test_a_file_comes_whole_with_the_token(server: FileServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.headers("authorization") == [f"Bearer {TOKEN}"]
    assert left(tmp_path) == []


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.script = [hang_up_after(100_000)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    (start,) = [value for value in server.headers("range") if value]
    assert 0 < int(start.removeprefix("bytes=").removesuffix("-")) <= 100_000
    assert server.headers("if-range") == [None, '"v1"']


def test_another_run_goes_on_where_one_was_stopped(server: FileServer, tmp_path: Path) -> None:
    server.script = [hang_up_after(100_000), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable, match="answers 503"):
        fetch(server, tmp_path)
    assert not (tmp_path / "file.safetensors").exists()
    server.seen.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [bool(value) for value in server.headers("range")] == [True]


def test_a_process_that_is_killed_loses_nothing_but_time(
    server: FileServer, tmp_path: Path
) -> None:
    server.script = [hang_up_after(100_000), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path)
    (part,) = (tmp_path / "downloads").glob("*.part")
    part.write_bytes(CONTENT)  # killed between the last byte and the new name
    server.seen.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == []


def test_a_server_that_ignores_ranges_is_begun_anew(server: FileServer, tmp_path: Path) -> None:
    server.script = [hang_up_after(100_000), ignore_range]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("stated", [SHA256, ""])
def test_a_file_that_changed_meanwhile_is_begun_anew(
    stated: str, server: FileServer, tmp_path: Path
) -> None:
    server.script = [hang_up_after(100_000), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path, sha256=stated)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    if stated:
        with pytest.raises(DamagedFile, match="its page says"):
            fetch(server, tmp_path)
    else:
        assert fetch(server, tmp_path, sha256="").read_bytes() == CONTENT[::-1]


def test_a_change_that_the_server_hides_is_found_by_the_hash(
    server: FileServer, tmp_path: Path
) -> None:
    def another_beginning(handler: Handler) -> None:
        handler.head(200, ETag='"v1"', Content_Length=len(CONTENT))
        handler.wfile.write(b"\1" * 100_000)
        handler.close_connection = True

    server.script = [another_beginning, *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_without_hash_or_validator_nothing_is_glued_together(
    server: FileServer, tmp_path: Path
) -> None:
    server.script = [hang_up_after(100_000, ETag=None), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path, sha256="")
    server.seen.clear()
    assert fetch(server, tmp_path, sha256="").read_bytes() == CONTENT
    assert server.headers("range") == [None]


def test_a_range_that_was_not_asked_for_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    def wrong_part(handler: Handler) -> None:
        total = len(CONTENT)
        handler.head(206, Content_Range=f"bytes 5-{total - 1}/{total}", Content_Length=total - 5)
        handler.wfile.write(CONTENT[5:])

    server.script = [hang_up_after(100_000), wrong_part]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_redirects_do_not_take_the_token_along(
    server: FileServer, other: FileServer, tmp_path: Path
) -> None:
    signed = f"{other.origin}/bucket/file?X-Signature=hush"
    server.script = [say(307, Location="/again"), say(302, Location=signed)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.headers("authorization") == [f"Bearer {TOKEN}"] * 2
    assert other.headers("authorization") == [None]
    assert other.seen[0][0] == "/bucket/file?X-Signature=hush"


def test_a_strange_host_never_gets_the_token(
    server: FileServer, other: FileServer, tmp_path: Path
) -> None:
    assert fetch(server, tmp_path, url=other.url).read_bytes() == CONTENT
    assert other.headers("authorization") == [None]


def test_no_message_shows_a_token_or_a_signature(
    server: FileServer, other: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="diffgraph")
    signed = f"{other.origin}/bucket/file?X-Signature=hush"
    server.script = [say(302, Location=signed)] * 3
    other.script = [say(503)] * 3
    with pytest.raises(ServiceUnavailable) as caught:
        fetch(server, tmp_path, url=f"{server.url}?token={TOKEN}")
    told = str(caught.value) + caplog.text
    assert "/bucket/file" in told
    assert "hush" not in told
    assert TOKEN not in told


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (say(200, b"<!DOCTYPE html><p>Log in", Content_Type="text/html; charset=utf-8"), "page"),
        (say(200, b"\n <html><p>Log in", Content_Type="application/octet-stream"), "web page"),
        (say(200, b'{"error": "log in"}', Content_Type="application/json"), "page"),
        (say(401), "401"),
        (say(403), "403"),
        (say(404), "404"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    answer: Answer, reason: str, server: FileServer, tmp_path: Path
) -> None:
    server.script = [answer]
    with pytest.raises(ServiceRefused, match=reason):
        fetch(server, tmp_path)
    assert len(server.seen) == 1
    assert left(tmp_path) == []


def test_redirects_come_to_an_end(server: FileServer, tmp_path: Path) -> None:
    server.script = [say(302, Location=server.url)] * 20
    with pytest.raises(ServiceRefused, match="redirects more than"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_redirects_lead_to_web_addresses_only(
    location: str, server: FileServer, tmp_path: Path
) -> None:
    server.script = [say(302, Location=location)]
    with pytest.raises(DiffgraphError, match="address"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("url", ["ftp://a/b", "", "file:///etc/passwd", "http://", "hub/a", "\0"])
def test_only_web_addresses_are_fetched(url: str, tmp_path: Path) -> None:
    with Downloader(tmp_path, config=FAST) as downloader, pytest.raises(UnusableListing):
        downloader.fetch(url, tmp_path / "file")


def test_another_content_than_the_page_says_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=SHA256[:12]):
        fetch(server, tmp_path, sha256="0" * 64)
    assert left(tmp_path) == []
    assert not (tmp_path / "file.safetensors").exists()


def test_an_empty_file_is_damaged(server: FileServer, tmp_path: Path) -> None:
    server.script = [say(200)]
    with pytest.raises(DamagedFile, match="empty"):
        fetch(server, tmp_path, sha256="")


def test_a_server_without_a_length_is_read_to_the_end(server: FileServer, tmp_path: Path) -> None:
    def chunked(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(CONTENT), 60_000):
            part = CONTENT[start : start + 60_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    server.script = [chunked]
    assert fetch(server, tmp_path, sha256="").read_bytes() == CONTENT


def test_too_large_is_refused_before_and_while_it_comes(server: FileServer, tmp_path: Path) -> None:
    small = FAST.model_copy(update={"largest_bytes": 1000})
    with pytest.raises(UnusableListing, match="may have"):
        fetch(server, tmp_path, small, size_bytes=2000)
    assert server.seen == []
    with pytest.raises(UnusableListing, match="may have"):
        fetch(server, tmp_path, small)

    def endless(handler: Handler) -> None:
        handler.head(200, Connection="close")
        handler.wfile.write(CONTENT)

    server.script = [endless]
    with pytest.raises(UnusableListing, match="may have"):
        fetch(server, tmp_path, small)
    assert left(tmp_path) == []


def test_a_full_disk_stops_and_a_large_claim_does_not(server: FileServer, tmp_path: Path) -> None:
    full = FAST.model_copy(update={"spare_bytes": 1 << 60})
    with pytest.raises(StorageError, match="disk is full"):
        fetch(server, tmp_path, full)
    vast = FAST.model_copy(update={"largest_bytes": 1 << 61})
    with pytest.raises(UnusableListing, match="the disk has"):
        fetch(server, tmp_path, vast, size_bytes=1 << 60)
    assert server.seen == []


def test_an_overloaded_server_is_given_the_time_it_asks_for(
    server: FileServer, tmp_path: Path
) -> None:
    patient = FAST.model_copy(update={"longest_wait": 2.0})
    server.script = [say(429, Retry_After=1)]
    start = time.monotonic()
    assert fetch(server, tmp_path, patient).read_bytes() == CONTENT
    assert time.monotonic() - start >= 1.0
    server.script = [say(429, Retry_After=3600)]
    with pytest.raises(ServiceUnavailable, match="3600 s"):
        fetch(server, tmp_path, patient)


def test_a_server_that_falls_silent_is_left(server: FileServer, tmp_path: Path) -> None:
    def silent(handler: Handler) -> None:
        handler.head(200, ETag='"v1"', Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:1000])
        handler.wfile.flush()
        assert given_up.wait(PATIENCE)
        handler.close_connection = True

    given_up = threading.Event()
    hasty = FAST.model_copy(update={"timeout": 1.0})
    server.script = [silent]
    assert fetch(server, tmp_path, hasty).read_bytes() == CONTENT
    given_up.set()
    assert len(server.seen) == 2


def test_no_more_at_once_than_is_allowed(server: FileServer, tmp_path: Path) -> None:
    at_work, most = 0, 0
    lock = threading.Lock()

    def slow(handler: Handler) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        wait_for(lambda: most >= FAST.at_once)  # the first have company before they go on
        with lock:
            at_work -= 1
        send_file(handler)

    server.script = [slow] * 6
    with Downloader(tmp_path / "downloads", None, [server.origin], FAST) as downloader:
        threads = [
            threading.Thread(
                target=downloader.fetch, args=(f"{server.url}/{number}", tmp_path / f"{number}")
            )
            for number in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == FAST.at_once
    assert {(tmp_path / f"{number}").read_bytes() for number in range(6)} == {CONTENT}


def test_a_damaged_note_makes_the_part_worthless(server: FileServer, tmp_path: Path) -> None:
    server.script = [hang_up_after(100_000), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path)
    (note,) = (tmp_path / "downloads").glob("*.json")
    note.write_text("{")
    server.seen.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.headers("range") == [None]


MEGABYTE = 1 << 20
LARGE = FAST.model_copy(update={"largest_bytes": 64 * MEGABYTE})


def cut_after(count: int, total: int, status: int = 200, **headers: Any) -> Answer:
    """Break the connection in the middle of a file that has not been seen before."""

    def answer(handler: Handler) -> None:
        handler.head(status, ETag=handler.server.etag, Content_Length=total, **headers)
        handler.wfile.write(bytes(count))
        handler.close_connection = True

    return answer


@contextmanager
def one_slot() -> Iterator[threading.Semaphore]:
    """A slot that must be free again in the end, whatever happened."""
    slot = threading.Semaphore(1)
    yield slot
    assert slot.acquire(blocking=False)


def test_bytes_that_a_server_takes_back_are_no_progress(server: FileServer, tmp_path: Path) -> None:
    total = 8 * MEGABYTE
    wrong = {"Content_Range": f"bytes 5-{total - 1}/{total}"}
    server.script = [cut_after(2 * MEGABYTE, total), cut_after(0, total - 5, 206, **wrong)] * 20
    with pytest.raises(ServiceUnavailable, match="another part"):
        fetch(server, tmp_path, LARGE)
    assert len(server.seen) <= 2 * LARGE.tries


def test_bytes_that_a_server_sends_again_are_no_progress(
    server: FileServer, tmp_path: Path
) -> None:
    total = 8 * MEGABYTE
    ignores_range = [cut_after(size * MEGABYTE, total) for size in (1, 3)]
    server.script = ignores_range * 20
    with pytest.raises(ServiceUnavailable, match="connection failed"):
        fetch(server, tmp_path, LARGE)
    assert len(server.seen) <= 2 * LARGE.tries


def test_a_little_more_each_time_is_too_little(server: FileServer, tmp_path: Path) -> None:
    total = 60 * MEGABYTE
    server.script = [cut_after(2 * size * MEGABYTE, total) for size in range(1, 30)]
    impatient = LARGE.model_copy(update={"slowest": 1 << 50, "patience": 1e-6})
    with pytest.raises(ServiceUnavailable, match="too little came in the time it had"):
        fetch(server, tmp_path, impatient)
    assert len(server.seen) == 1


@pytest.mark.parametrize("talk", [drip_headers, say_nothing])
def test_headers_that_never_end_give_the_slot_back(talk: Talk, tmp_path: Path) -> None:
    config = FAST.model_copy(update={"opening": 0.1, "timeout": 600.0, "tries": 2})
    with RawServer(talk) as server, one_slot() as slot:
        with Downloader(tmp_path / "d", None, [server.url], config, lambda: slot) as downloader:
            with pytest.raises(ServiceUnavailable, match="no whole answer"):
                downloader.fetch(f"{server.url}/file", tmp_path / "file")
        assert len(server.heads) == 2


def test_a_body_that_drips_gives_the_slot_back(tmp_path: Path) -> None:
    config = FAST.model_copy(update={"slowest": 1 << 40, "timeout": 0.1, "tries": 2})
    with RawServer(drip_body) as server, one_slot() as slot:
        with Downloader(tmp_path / "d", None, [server.url], config, lambda: slot) as downloader:
            with pytest.raises(ServiceUnavailable, match="sends less than"):
                downloader.fetch(f"{server.url}/file", tmp_path / "file", sha256=SHA256)
        assert len(server.heads) == 2


def test_a_file_has_so_much_time_and_the_next_run_goes_on_with_it(tmp_path: Path) -> None:
    config = FAST.model_copy(update={"slowest": 1, "timeout": 600.0, "longest": 3.0})
    with RawServer(drip_body) as server, one_slot() as slot:
        with Downloader(tmp_path / "d", None, [server.url], config, lambda: slot) as downloader:
            with pytest.raises(ServiceUnavailable, match="too little came in the time it had"):
                downloader.fetch(f"{server.url}/file", tmp_path / "file", sha256=SHA256)
        assert len(server.heads) == 1
    (part,) = (tmp_path / "d").glob("*.part")
    assert part.stat().st_size > 0


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/a", "http://10.0.0.1/a", "http://[::ffff:10.0.0.1]/a", "http://0xa000001/",
     "http://metadata.google.internal/a", "http://[fd00:ec2::254]/a", "http://me:pass@127.0.0.1/a"],
)  # fmt: skip
def test_a_page_cannot_send_us_to_another_machine_in_the_users_network(
    url: str, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(UnusableListing, match="address"):
        fetch(server, tmp_path, url=url)
    server.script = [say(302, Location=url)]
    with pytest.raises(ServiceRefused, match=r"redirects to .*address"):
        fetch(server, tmp_path)
    assert len(server.seen) == 1
    assert left(tmp_path) == []


def test_a_file_does_not_come_from_this_machine_for_a_hub_that_is_elsewhere(
    server: FileServer, tmp_path: Path
) -> None:
    names, hub = Names({"hub.example": ["93.184.216.34"]}, {}), ["https://hub.example"]
    gate = Gate(hub, reach=names.reach(*hub), silence=FAST.timeout)
    with Downloader(tmp_path / "d", None, hub, FAST, gate=gate) as downloader:
        with pytest.raises(UnusableListing, match="without TLS"):
            downloader.fetch(server.url, tmp_path / "file")
        with pytest.raises(UnusableListing, match="not a public address"):
            downloader.fetch(server.url.replace("http:", "https:"), tmp_path / "file")
    assert server.seen == []


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "zstd"])
def test_a_file_that_comes_encoded_is_refused(
    encoding: str, server: FileServer, tmp_path: Path
) -> None:
    server.script = [say(200, gzip.compress(CONTENT), Content_Encoding=encoding)]
    with pytest.raises(ServiceRefused, match="not asked for"):
        fetch(server, tmp_path)
    assert len(server.seen) == 1


def test_a_limit_of_requests_is_waited_for_as_hugging_face_says_it(
    server: FileServer, tmp_path: Path
) -> None:
    server.script = [say(429, RateLimit='"resolvers";r=0;t=3600')]
    with pytest.raises(ServiceUnavailable, match="3600 s"):
        fetch(server, tmp_path)
    server.script = [say(429, RateLimit='"resolvers";r=0;t=0.02')]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_token_in_a_servers_words_is_in_no_message(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="diffgraph")
    told = ""
    for answer in (
        say(302, Location=f"{server.origin}/{TOKEN}/x"),
        say(302, Location=f"http://10.0.0.1/{TOKEN}"),
        say(200, b"{}", Content_Type=TOKEN),
        say(200, b"", Content_Encoding=TOKEN),
    ):
        server.script = [answer, say(418)]
        with pytest.raises(DiffgraphError) as caught:
            fetch(server, tmp_path)
        told += repr(caught.value)
    with pytest.raises(DiffgraphError) as caught:
        fetch(server, tmp_path, url=f"ftp://{TOKEN}/")
    assert TOKEN not in told + repr(caught.value) + caplog.text
