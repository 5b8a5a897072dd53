"""A library can be planned with as soon as it is discovered; what is measured stays measured."""

from pathlib import Path

import pytest

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.session import Session
from diffgraph.session.registering import register_library
from tests.small_hub import write_hub

SEPIA = "smallhub:9003@90031"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    hub = FolderCrawler(write_hub(tmp_path / "hub"))
    discover(hub, Library(home, bundled=()), get_family("emoji64"))
    return home


def test_nothing_is_written_for_an_empty_library(tmp_path):
    assert register_library(tmp_path / "home", "emoji64") is None
    assert not (tmp_path / "home").exists()


def test_a_discovered_library_is_planned_with_at_its_pages_strengths(home):
    graph = register_library(home, "emoji64")
    assert graph is not None
    assert (len(graph.refs), graph.calibrated) == (4, ())
    decision = Session(home, "emoji64", "cpu").decide("a cat, sepia")
    assert decision.plan.coefficients()[SEPIA] == 0.9  # as its page says
    assert "not calibrated yet: strengths are the pages'" in decision.selection.lines()
