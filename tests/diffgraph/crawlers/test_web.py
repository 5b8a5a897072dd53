"""What a person hears while a server is waited for."""

import asyncio
import logging

import pytest
from pydantic import SecretStr

from diffgraph.crawlers import web
from diffgraph.crawlers.web import Web, WebConfig
from diffgraph.errors import ServiceUnavailable

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
