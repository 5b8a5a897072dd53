"""No server holds a slot for ever, however busy it seems."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diffgraph.crawlers.downloads import Downloader
from diffgraph.errors import (
    ServiceUnavailable,
)
from tests.diffgraph.crawlers.downloads.file_server import (
    CONTENT,
    FAST,
    SHA256,
    Answer,
    FileServer,
    Handler,
    fetch,
    say,
    send_file,
)
from tests.servers.raw_server import RawServer, Talk, drip_body, drip_headers, say_nothing
from tests.waiting import PATIENCE, wait_for


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


def test_a_limit_of_requests_is_waited_for_as_hugging_face_says_it(
    server: FileServer, tmp_path: Path
) -> None:
    server.script = [say(429, RateLimit='"resolvers";r=0;t=3600')]
    with pytest.raises(ServiceUnavailable, match="3600 s"):
        fetch(server, tmp_path)
    server.script = [say(429, RateLimit='"resolvers";r=0;t=0.02')]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
