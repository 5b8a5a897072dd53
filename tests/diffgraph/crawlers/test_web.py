"""How a server is asked, how much of an answer is taken, and what a person hears of it."""

import asyncio
import gzip
import json
import logging
import time
import tracemalloc

import pytest
from pydantic import SecretStr

from diffgraph.crawlers import web
from diffgraph.crawlers.web import BadAnswer, Web, WebConfig, decoded
from diffgraph.errors import ServiceError, ServiceUnavailable
from tests.servers.local_server import LocalServer, Reply, Request
from tests.servers.raw_server import RawServer, say

NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens there


def ask(config: WebConfig) -> None:
    async def asked() -> None:
        server = Web(NOWHERE, SecretStr("secret-token"), config)
        try:
            await server.get("/api/v1/models", None)
        finally:
            await server.close()

    with pytest.raises(ServiceUnavailable, match="after 2 tries"):
        asyncio.run(asked())


@pytest.mark.parametrize(("told", "heard"), [(0.01, True), (1.0, False)])
def test_a_long_wait_is_told_and_a_short_one_is_not(caplog, monkeypatch, told, heard):
    monkeypatch.setattr(web, "WORTH_TELLING", told)
    with caplog.at_level(logging.WARNING, logger="diffgraph"):
        ask(WebConfig(tries=2, first_wait=0.05))
    assert (f"{NOWHERE}/api/v1/models" in caplog.text) is heard
    assert ("again in" in caplog.text) is heard
    assert "secret-token" not in caplog.text


TOKEN = "a-secret-token"
QUICK = WebConfig(tries=2, first_wait=0.001, longest_answer=30.0)


class Answering(LocalServer):
    """Gives its answers one after the other, then the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)

    def answer(self, request: Request) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def got(url: str, config: WebConfig = QUICK, times: int = 1) -> bytes:
    async def asked() -> bytes:
        server = Web(url, SecretStr(TOKEN), config)
        try:
            return [await server.get("/api") for _ in range(times)][-1]
        finally:
            await server.close()

    return asyncio.run(asked())


def test_a_limit_that_is_used_up_is_waited_for_before_the_next_request(caplog):
    used_up = Reply.json({}, RateLimit='"api";r=0;t=0.2', **{"RateLimit-Policy": '"api";q=5;w=300'})
    with Answering(used_up, Reply.json({})) as server:
        caplog.set_level("DEBUG", logger="diffgraph")
        start = time.monotonic()
        got(server.url, times=3)
        assert time.monotonic() - start >= 0.2
    assert caplog.text.count("limit of requests is used up") == 1


@pytest.mark.parametrize("headers", [
    {"RateLimit": '"api";r=0;t=3600'},
    {"RateLimit": '"api";r=0', "RateLimit-Policy": '"api";q=500;w=3600'},
    {"RateLimit-Remaining": "0", "RateLimit-Reset": "3600"},
])  # fmt: skip
def test_a_limit_that_is_longer_than_we_wait_is_told(headers):
    with Answering(Reply.json({}, 429, **headers)) as server:
        with pytest.raises(ServiceUnavailable, match="asks to wait 3600 s"):
            got(server.url)
        assert len(server.requests) == 1


def test_a_limit_longer_than_we_wait_on_a_good_answer_holds_nobody_up():
    with Answering(Reply.json({}, RateLimit='"api";r=0;t=3600')) as server:
        got(server.url, times=2)


@pytest.mark.parametrize("status", [503, 404, 401, 403, 200, 302])
def test_a_servers_words_bring_the_token_to_nobody(status, caplog):
    caplog.set_level("DEBUG", logger="diffgraph")
    location = f"Location: http://10.0.0.1/{TOKEN}"
    words = say(f"{status} {TOKEN}", json.dumps({"error": TOKEN}).encode(), location)
    with RawServer(words) as server:
        try:
            told = got(server.url).decode()
        except ServiceError as error:
            told = repr(error)
    assert "***" in told or status != 200
    assert TOKEN not in told + caplog.text


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_of_an_answer_costs_little_memory(layers):
    body = gzip.compress(bytes(64 << 20), 1)
    if layers == 2:
        body = gzip.compress(body)
    small = QUICK.model_copy(update={"largest_answer": 1 << 20})
    stated = "Content-Encoding: " + ", ".join(["gzip"] * layers)
    with RawServer(say("200 OK", body, stated)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(BadAnswer):
                got(server.url, small)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["[" * 2_000_000, "[" + "[]," * 1_000_000 + "0]", '{"a":0,' * 900_000]
)
def test_a_text_of_very_many_values_is_not_read(text):
    tracemalloc.start()
    try:
        with pytest.raises(BadAnswer, match="more than 800000 values"):
            decoded(text.encode(), "the list")
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
