"""Claude's API on this machine, and agents that use it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from diffgraph.agents import ClaudeAccess
from diffgraph.agents.messages import ClaudeConfig
from tests.servers.messages_api import KEY, MessagesApi

MODEL = "claude-haiku-5-5"
QUICK = ClaudeConfig(tries=3, timeout=600.0, at_once=2, batch_from=0, batch_poll=0.01)


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


@pytest.fixture
def access(api: MessagesApi, tmp_path: Path) -> Callable[..., ClaudeAccess]:
    def make(**changes: Any) -> ClaudeAccess:
        fields = {
            "folder": tmp_path,
            "key": SecretStr(KEY),
            "model": MODEL,
            "base_url": api.url,
            "config": QUICK,
        }
        return ClaudeAccess(**fields | changes)

    return make


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits half a second before it tries again; here less is plenty."""
    from anthropic import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.02)
