"""A home and hubs for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.diffgraph.crawlers.huggingface.crawls import HuggingFaceHome
from tests.servers.huggingface import HuggingFaceServer


@pytest.fixture
def home(tmp_path: Path) -> HuggingFaceHome:
    return HuggingFaceHome(tmp_path / "home")


@pytest.fixture
def serve() -> Iterator[Callable[..., HuggingFaceServer]]:
    """Start a hub that ends with the test."""
    started: list[HuggingFaceServer] = []

    def start(*arguments: Any, **options: Any) -> HuggingFaceServer:
        started.append(HuggingFaceServer(*arguments, **options).__enter__())
        return started[-1]

    yield start
    for server in started:
        server.__exit__()
