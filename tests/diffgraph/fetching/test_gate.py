"""Whatever is fetched passes one gate: whom it asks, for how long, and how much comes of it."""

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from diffgraph.errors import ServiceError, ServiceRefused
from diffgraph.fetching.addresses import AddressRefused
from diffgraph.fetching.encodings import STEP, ContentDecoder, UnexpectedEncoding
from diffgraph.fetching.gate import AsyncGate, Gate, plain_body
from diffgraph.fetching.waiting import TransientFailure
from tests.servers.names import AsyncNetwork, Names, Network
from tests.servers.raw_server import (
    RawServer,
    Talk,
    drip_body,
    drip_headers,
    say,
    say_nothing,
)

TOKEN = "a-secret-token"
HUB, STORAGE = "93.184.216.34", "93.184.216.35"
LONG = 600.0  # seconds; more than any test takes
SHORT = 0.2

Fetch = Callable[..., bytes]


def fetch(names: Names, url: str = "http://hub.example/a", seconds: float = LONG) -> bytes:
    """Ask as a thread does."""
    gate = Gate(
        ["http://hub.example"],
        SecretStr(TOKEN),
        names.policy("http://hub.example"),
        silence=LONG,
        inner=Network(names),
    )
    until = time.monotonic() + seconds
    try:
        with gate.answer(httpx.URL(url), {}, until, until) as answer:
            return b"".join(answer.iter_raw())
    finally:
        gate.close()


def fetch_async(names: Names, url: str = "http://hub.example/a", seconds: float = LONG) -> bytes:
    """Ask as an event loop does."""

    async def asked() -> bytes:
        gate = AsyncGate(
            ["http://hub.example"],
            SecretStr(TOKEN),
            names.policy("http://hub.example"),
            silence=LONG,
            inner=AsyncNetwork(names),
        )
        try:
            async with gate.answer("GET", httpx.URL(url), {}, seconds) as answer:
                return await plain_body(answer, 1 << 20) or b""
        finally:
            await gate.close()

    return asyncio.run(asked())


both = pytest.mark.parametrize("ask", [fetch, fetch_async], ids=["thread", "loop"])


def names_for(server: RawServer, storage: RawServer | None = None, **more: list[str]) -> Names:
    addresses = {"hub.example": [HUB], "storage.example": [STORAGE], **more}
    ports = {HUB: server.port} | ({STORAGE: storage.port} if storage else {})
    return Names(addresses, ports)


def redirect(location: str) -> Talk:
    return say("302 Found", b"", f"Location: {location}")


@both
def test_a_public_hub_may_send_us_to_a_public_storage_without_the_token(ask: Fetch) -> None:
    with RawServer(say("200 OK", b"content")) as storage:
        with RawServer(redirect("http://storage.example/b")) as hub:
            names = names_for(hub, storage)
            assert ask(names) == b"content"
    assert names.connected == [HUB, STORAGE]
    assert f"Bearer {TOKEN}".encode() in hub.heads[0]
    assert TOKEN.encode() not in storage.heads[0]


@both
@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::1]/",
        "http://2130706433/",
        "http://10.0.0.7/",
        "http://inside.example/",
        "//169.254.169.254/",
        "http://me:pass@storage.example/",
        "ftp://storage.example/",
        "file:///etc/passwd",
        "http://0177.0.0.1/",
        "http://[::1",
    ],
)
def test_a_public_hub_cannot_send_us_to_a_private_address(ask: Fetch, location: str) -> None:
    with RawServer(redirect(location)) as hub:
        names = names_for(hub, **{"inside.example": ["10.0.0.7"]})
        with pytest.raises(ServiceRefused, match="address"):
            ask(names)
    assert names.connected == [HUB]


@both
def test_a_public_hub_whose_name_turns_private_is_no_longer_connected_to(ask: Fetch) -> None:
    with RawServer(redirect("http://hub.example/again")) as hub:
        names = Names({"hub.example": [[HUB], ["127.0.0.1"]]}, {HUB: hub.port})
        with pytest.raises(AddressRefused, match="not a public address"):
            ask(names)
    assert names.connected == [HUB]


@both
def test_redirects_come_to_an_end(ask: Fetch) -> None:
    with RawServer(redirect("/again")) as hub, pytest.raises(ServiceRefused, match="more than"):
        ask(names_for(hub))


@both
@pytest.mark.parametrize("talk", [drip_headers, drip_body, say_nothing])
def test_an_answer_that_never_ends_is_left_at_the_deadline(ask: Fetch, talk: Talk) -> None:
    with RawServer(talk) as hub, pytest.raises(TransientFailure, match="no whole answer"):
        ask(names_for(hub), seconds=SHORT)


@both
def test_redirects_do_not_put_the_deadline_off(ask: Fetch) -> None:
    with RawServer(drip_headers) as storage:
        with RawServer(redirect("http://storage.example/b")) as hub:
            with pytest.raises(TransientFailure, match="no whole answer"):
                ask(names_for(hub, storage), seconds=SHORT)


@both
@pytest.mark.parametrize(
    "encoding", ["gzip, gzip", "br", "zstd", "deflate", "gzip, br", "x-unknown", "GZIP,GZIP"]
)
def test_an_encoding_that_was_not_asked_for_is_refused(ask: Fetch, encoding: str) -> None:
    body = gzip.compress(gzip.compress(bytes(1 << 20)))
    with RawServer(say("200 OK", body, f"Content-Encoding: {encoding}")) as hub:
        with pytest.raises(UnexpectedEncoding, match="not asked for"):
            ask(names_for(hub))


def test_a_file_is_asked_for_as_it_is_and_refused_otherwise() -> None:
    body = gzip.compress(b"content")
    with RawServer(say("200 OK", body, "Content-Encoding: gzip")) as hub:
        with pytest.raises(UnexpectedEncoding):
            fetch(names_for(hub))
    assert b"accept-encoding: identity" in hub.heads[0].lower()


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_is_made_plain(members: int) -> None:
    body = b"".join(gzip.compress(b"content" * 20_000) for _ in range(members))
    with RawServer(say("200 OK", body, "Content-Encoding: gzip")) as hub:
        assert fetch_async(names_for(hub)) == b"content" * 20_000 * members


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(bytes(9_000))[:-9], b""], ids=["none", "cut", "nothing"]
)
def test_gzip_that_is_none_or_is_cut_fails(body: bytes) -> None:
    with RawServer(say("200 OK", body, "Content-Encoding: gzip")) as hub:
        with pytest.raises(TransientFailure, match="gzip"):
            fetch_async(names_for(hub))


def test_a_bomb_is_met_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    plain = ContentDecoder({"content-encoding": "gzip"}, "gzip")
    tracemalloc.start()
    try:
        came = 0
        for piece in plain.pieces(bomb):
            assert len(piece) <= STEP
            came += len(piece)
            if came > 8 << 20:
                break
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@both
def test_what_a_server_wants_kept_is_not_kept(ask: Fetch) -> None:
    with RawServer(say("302 Found", b"", "Location: /again", "Set-Cookie: a=b; Path=/")) as hub:
        with pytest.raises(ServiceRefused):
            ask(names_for(hub))
    assert not any(b"cookie" in head.lower() for head in hub.heads)


@both
def test_no_error_tells_the_token(ask: Fetch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="diffgraph")
    told = ""
    for location in (
        f"http://10.0.0.1/{TOKEN}",
        f"ftp://{TOKEN}/",
        f"http://me:{TOKEN}@x.example/",
    ):
        with RawServer(redirect(location)) as hub, pytest.raises(ServiceError) as caught:
            ask(names_for(hub))
        told += repr(caught.value)
    assert TOKEN not in told + caplog.text
