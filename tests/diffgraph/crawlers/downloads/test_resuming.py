"""A file comes whole, and what has come is not fetched again."""

from pathlib import Path
from typing import Any

import pytest

from diffgraph.errors import (
    DamagedFile,
    ServiceUnavailable,
)
from tests.diffgraph.crawlers.downloads.file_server import (
    CONTENT,
    SHA256,
    TOKEN,
    Answer,
    FileServer,
    Handler,
    fetch,
    left,
    say,
)


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


def test_a_server_that_calls_a_part_the_whole_is_asked_again(
    server: FileServer, tmp_path: Path
) -> None:
    """No hash would tell: it had announced more."""
    server.script = [hang_up_after(100_000), say_all_is_there]
    assert fetch(server, tmp_path, sha256="").read_bytes() == CONTENT


def say_all_is_there(handler: Handler) -> None:
    start = handler.headers["Range"].removeprefix("bytes=").removesuffix("-")
    handler.head(416, Content_Range=f"bytes */{start}", Content_Length=0)


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


def test_a_server_without_a_length_is_read_to_the_end(server: FileServer, tmp_path: Path) -> None:
    def chunked(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(CONTENT), 60_000):
            part = CONTENT[start : start + 60_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    server.script = [chunked]
    assert fetch(server, tmp_path, sha256="").read_bytes() == CONTENT


def test_a_damaged_note_makes_the_part_worthless(server: FileServer, tmp_path: Path) -> None:
    server.script = [hang_up_after(100_000), *[say(503)] * 2]
    with pytest.raises(ServiceUnavailable):
        fetch(server, tmp_path)
    (note,) = (tmp_path / "downloads").glob("*.json")
    note.write_text("{")
    server.seen.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.headers("range") == [None]
