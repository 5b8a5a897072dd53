"""A home and hubs for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.diffgraph.crawlers.civitai.crawls import CivitaiHome
from tests.servers.civitai import CivitaiServer


@pytest.fixture
def home(tmp_path: Path) -> CivitaiHome:
    return CivitaiHome(tmp_path / "home")


@pytest.fixture
def serve() -> Iterator[Callable[..., CivitaiServer]]:
    """Start a hub that ends with the test."""
    started: list[CivitaiServer] = []

    def start(*arguments: Any, **options: Any) -> CivitaiServer:
        started.append(CivitaiServer(*arguments, **options).__enter__())
        return started[-1]

    yield start
    for server in started:
        server.__exit__()
