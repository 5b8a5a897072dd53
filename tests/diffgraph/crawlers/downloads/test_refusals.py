"""What is no file, or another than its page speaks of, is refused; secrets stay where they are."""

import gzip
from pathlib import Path

import pytest

from diffgraph.crawlers.downloads import Downloader
from diffgraph.errors import (
    DamagedFile,
    DiffgraphError,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UnusableListing,
)
from diffgraph.fetching.gate import Gate
from tests.diffgraph.crawlers.downloads.file_server import (
    CONTENT,
    FAST,
    SHA256,
    TOKEN,
    Answer,
    FileServer,
    Handler,
    fetch,
    left,
    say,
)
from tests.servers.names import Names


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
    gate = Gate(hub, policy=names.policy(*hub), silence=FAST.timeout)
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
