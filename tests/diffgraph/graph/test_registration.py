import json

import pytest

from diffgraph.agents import OfflineAgent
from diffgraph.errors import StorageError
from diffgraph.experts.expert import ExpertRef, Listing
from diffgraph.graph.registration import register


class CountingAgent(OfflineAgent):
    """The offline agent, counting how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def describe(self, listing):
        self.asked += 1
        return super().describe(listing)


def page(**changes: object) -> Listing:
    fields = {"ref": ExpertRef.parse("hub:1@2"), "name": "Neon", "description": "<p>Glow.</p>"}
    return Listing.model_validate(fields | changes)


@pytest.fixture
def agent():
    return CountingAgent()


def test_a_second_run_asks_nobody(agent, tmp_path):
    first = register(page(), agent, tmp_path / "cards")
    assert register(page(), agent, tmp_path / "cards") == first
    assert agent.asked == 1


def test_more_downloads_are_no_news(agent, tmp_path):
    register(page(), agent, tmp_path)
    register(page(downloads=9), agent, tmp_path)
    assert agent.asked == 1


@pytest.mark.parametrize(
    "change",
    [{"description": "<p>Dark.</p>"}, {"trigger_words": ("neon",)}, {"name": "Neon 2"}],
)
def test_a_changed_page_is_read_again(agent, tmp_path, change):
    register(page(), agent, tmp_path)
    register(page(**change), agent, tmp_path)
    assert agent.asked == 2


@pytest.mark.parametrize("attribute", ["name", "model", "instruction_version"])
def test_another_agent_model_or_instruction_asks_again(agent, tmp_path, attribute):
    register(page(), agent, tmp_path)
    setattr(agent, attribute, "another")
    register(page(), agent, tmp_path)
    assert agent.asked == 2


@pytest.mark.parametrize("damage", ["", "{", '{"summary": 3}', "[]", "\x00\xff"])
def test_a_damaged_card_is_asked_for_again_and_mended(agent, tmp_path, damage):
    card = register(page(), agent, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage, encoding="utf-8")
    assert register(page(), agent, tmp_path) == card
    assert agent.asked == 2
    assert json.loads(file.read_text(encoding="utf-8"))["summary"] == card.summary


def test_a_folder_that_cannot_be_written_is_named(agent, tmp_path):
    (tmp_path / "cards").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cards"):
        register(page(), agent, tmp_path / "cards")
