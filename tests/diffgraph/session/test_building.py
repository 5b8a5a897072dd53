"""A graph's builder opens a home once, and has pages read in one place only."""

import pickle
from pathlib import Path

import pytest

from diffgraph.agents.offline import OfflineAgent
from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.graph.calibration import CalibrationConfig
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.session.building import GraphBuilder, register
from tests.small_hub import write_hub

PROMPTS = [ReferencePrompt(id="cat", text="a cat", category="animals", seed=1)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    hub = FolderCrawler(write_hub(tmp_path / "hub"))
    discover(hub, Library(home, bundled=()), get_family("emoji64"))
    return home


def test_pages_are_read_when_registered_and_never_later(home, monkeypatch):
    builder = GraphBuilder(home, "emoji64")
    refs = builder.unregistered()
    assert register(builder, refs).asked == len(refs) > 0

    def asked(*_: object) -> None:
        raise AssertionError("the agent was asked")

    for question in ("describe", "prepare"):
        monkeypatch.setattr(OfflineAgent, question, asked)
    again = GraphBuilder(home, "emoji64")
    assert again.unregistered() == []
    assert [expert.ref for expert, _ in again.described] == refs
    assert again.shards(PROMPTS, CalibrationConfig(prompts=1), only_missing=True)


def test_another_process_opens_the_home_again(home):
    builder = GraphBuilder(home, "emoji64")
    refs = builder.unregistered()
    travelled = pickle.loads(pickle.dumps(builder))  # noqa: S301
    assert travelled == builder
    assert travelled.library is not builder.library
    assert travelled.unregistered() == refs


def test_an_expert_that_came_after_the_pages_were_read_is_told(home, caplog):
    builder = GraphBuilder(home, "emoji64")
    first, *late = builder.unregistered()
    register(builder, [first])
    assert [expert.ref for expert, _ in builder.described] == [first]
    assert all(any(ref in line for line in caplog.messages) for ref in late)
