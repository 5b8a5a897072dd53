import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from diffgraph.agents import OfflineAgent
from diffgraph.errors import StorageError
from diffgraph.experts.expert import Expert, ExpertRef, Listing
from diffgraph.experts.library import Library, page_hash
from diffgraph.graph.registration import Cards, known_cards, register_all


class CountingAgent(OfflineAgent):
    """The offline agent, counting how often it is asked; it can break down."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.breaks_at = -1

    def describe(self, listing):
        self.asked += 1
        if self.asked == self.breaks_at:
            raise StorageError("the machine is on fire")
        return super().describe(listing)


def page(**changes: object) -> Listing:
    fields = {"ref": ExpertRef.parse("hub:1@2"), "name": "Neon", "description": "<p>Glow.</p>"}
    return Listing.model_validate(fields | changes)


def register(listing, agent, cards):
    """Register one expert with this page; return its card."""
    with TemporaryDirectory() as folder:
        library = Library(Path(folder), bundled=())
        ref = str(listing.ref)
        library.add_pages(
            [(Expert(ref=ref, name=listing.name, kind="peft", family="emoji64"), listing)]
        )
        return register_all(library.experts(), library, agent, cards)[0][0]


@pytest.fixture
def agent():
    return CountingAgent()


@pytest.fixture
def cards(tmp_path):
    return Cards(tmp_path / "cards")


@pytest.fixture
def library(tmp_path):
    """Nine experts that are known by their pages."""
    library = Library(tmp_path, bundled=())
    refs = [f"hub:{number}@1" for number in range(9)]
    library.add_pages(
        (
            Expert(ref=ref, name=ref, kind="peft", family="emoji64"),
            page(ref=ExpertRef.parse(ref), description=f"<p>It glows like lamp {ref}.</p>"),
        )
        for ref in refs
    )
    return library


def test_a_second_run_asks_nobody(agent, cards, tmp_path):
    first = register(page(), agent, cards)
    assert register(page(), agent, cards) == first
    assert register(page(), agent, Cards(tmp_path / "cards")) == first
    assert agent.asked == 1


def test_more_downloads_are_no_news(agent, cards):
    register(page(), agent, cards)
    register(page(downloads=9), agent, cards)
    assert agent.asked == 1


@pytest.mark.parametrize(
    "change",
    [{"description": "<p>Dark.</p>"}, {"trigger_words": ("neon",)}, {"name": "Neon 2"}],
)
def test_a_changed_page_is_read_again(agent, cards, change):
    register(page(), agent, cards)
    register(page(**change), agent, cards)
    assert agent.asked == 2


@pytest.mark.parametrize("attribute", ["name", "model", "instruction_version"])
def test_another_agent_model_or_instruction_asks_again(agent, cards, attribute):
    register(page(), agent, cards)
    setattr(agent, attribute, "another")
    register(page(), agent, cards)
    assert agent.asked == 2


@pytest.mark.parametrize("damage", ["", "{", '{"summary": 3}', "[]", "\x00\ufffd"])
def test_a_damaged_card_is_asked_for_again_and_mended(agent, cards, tmp_path, damage):
    card = register(page(), agent, cards)
    (file,) = (tmp_path / "cards").glob("*.jsonl")
    row = json.loads(file.read_text(encoding="utf-8"))
    start = f'{{"key":"{row["key"]}","value":'
    file.write_text(f"{start}{damage}}}\n", encoding="utf-8")
    assert register(page(), agent, Cards(tmp_path / "cards")) == card
    assert agent.asked == 2
    assert register(page(), agent, Cards(tmp_path / "cards")) == card
    assert agent.asked == 2


def test_a_folder_that_cannot_be_written_is_named(agent, tmp_path):
    (tmp_path / "cards").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cards"):
        register(page(), agent, Cards(tmp_path / "cards"))


def test_all_are_described_once_each(agent, cards, library):
    experts = library.experts()
    told = []
    found, asked = register_all(
        experts, library, agent, cards, lambda done, name: told.append((done, name))
    )
    assert (asked, agent.asked, told[-1]) == (9, 9, (9, "hub:8@1"))
    assert [card.agent for card in found] == ["offline"] * 9
    assert found[3] == register(library.listing("hub:3@1"), agent, cards)
    again, asked = register_all(experts, library, agent, Cards(library.folder.parent / "cards"))
    assert (again, asked, agent.asked) == (found, 0, 9)


def test_equal_pages_are_read_once(agent, cards, library):
    twice = library.experts()[:1] * 3
    assert register_all(twice, library, agent, cards)[1] == 1


def test_a_run_that_breaks_keeps_what_was_answered(agent, cards, library):
    agent.breaks_at = 6
    with pytest.raises(StorageError, match="on fire"):
        register_all(library.experts(), library, agent, cards)
    _, asked = register_all(library.experts(), library, agent, cards)
    assert asked == 4


def test_whether_a_page_was_read_can_be_told_without_it(agent, cards):
    assert cards.find(page_hash(page()), agent) is None
    card = register(page(), agent, cards)
    assert cards.find(page_hash(page()), agent) == card


def test_an_expert_whose_page_is_damaged_is_told_and_left_out_unless_it_has_a_card(
    agent, cards, library, caplog
):
    experts = library.experts()
    register_all(experts[:3], library, agent, cards)
    pages = library.folder / "listings.jsonl"
    lines = pages.read_bytes().splitlines(keepends=True)
    for line in (1, 5):  # of one that has a card and of one that has none
        lines[line] = lines[line].replace(b'"value":', b'"value":\0')
    pages.write_bytes(b"".join(lines))
    again = Library(library.folder.parent, bundled=())
    found = [expert for expert, _ in known_cards(again, experts[0].family, agent, cards)]
    assert set(experts) - set(found) == {experts[5]}
    assert str(experts[5].ref) in caplog.text
    assert len(register_all(found, again, agent, cards)[0]) == 8
