"""How does an expert become a node? An agent reads its page once and writes a card.

The paper's node registration (https://arxiv.org/abs/2603.20470, section 3.1). A card is kept under
the page it describes, the agent, its model and its instructions: the same question is never asked
twice, and whether it has been asked is known without reading the page.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from diffgraph.agents.agent import Agent
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Expert, Status
from diffgraph.experts.library import Library
from diffgraph.experts.line_store import LineStore

log = logging.getLogger(__name__)

STATUSES: tuple[Status, ...] = ("ready", "registered_only")
"""Of the experts that are nodes."""

KEPT_AFTER = 1.0  # seconds; what a killed run may have asked for in vain


class Cards:
    """The cards that agents have written, in `cards.jsonl`.

    Args:
        folder: `cards` below the home folder.
    """

    def __init__(self, folder: Path) -> None:
        self._lines = LineStore(folder / "cards.jsonl")

    def find(self, page_sha256: str, agent: Agent) -> ExpertCard | None:
        """Return the card an agent wrote of a page; None if there is none that can be read."""
        text = self._lines.get(_key(page_sha256, agent))
        if text is None:
            return None
        try:
            return ExpertCard.model_validate_json(text)
        except ValidationError as error:
            log.warning("%s: a card is damaged and is asked for again: %s", self._lines.path, error)
            return None

    def keep(self, written: Iterable[tuple[str, ExpertCard]], agent: Agent) -> None:
        """Keep what an agent wrote of pages, by their hashes.

        Raises:
            StorageError: the cards cannot be written.
        """
        self._lines.put((_key(page, agent), card.model_dump_json()) for page, card in written)

    def forget(self, pages: Collection[str]) -> None:
        """Remove what any agent ever wrote of pages, by their hashes."""
        written = {key: self._lines.get(key) for key in self._lines.keys()}
        askers = {_asked(text) for text in written.values() if text is not None} - {None}
        gone = {_key_of(page, *asker) for page in pages for asker in askers if asker}
        if not gone.isdisjoint(written):
            self._lines.keep_only(written.keys() - gone)


def register_all(
    experts: Sequence[Expert],
    library: Library,
    agent: Agent,
    cards: Cards,
    on_progress: Callable[[int, str], None] | None = None,
) -> tuple[list[ExpertCard], int]:
    """Return the experts' cards, and how often the agent was asked.

    Cards are kept together, about once a second: a run that is killed asks again for those of its
    last second.

    Args:
        experts: whose pages are in the library.
        library: where their pages are.
        agent: reads them.
        cards: what was written before.
        on_progress: called after each with the number that is done and the last one's name.

    Raises:
        StorageError: the cards cannot be written.
        MissingInput: a page is not in the library.
    """
    found: dict[str, ExpertCard] = {}
    asked = 0
    for start in range(0, len(experts), agent.pages_together):  # so many are in memory at once
        part = experts[start : start + agent.pages_together]
        pages = {expert.page_sha256: expert for expert in part}
        written = {page: card for page in pages if (card := cards.find(page, agent)) is not None}
        left = {
            page: library.listing(expert.ref)
            for page, expert in pages.items()
            if page not in written
        }
        with _Batch(cards, agent) as batch:
            agent.prepare(list(left.values()))
            for number, expert in enumerate(part, start + 1):
                page = expert.page_sha256
                if page not in written:
                    written[page] = batch.keep(page, agent.describe(left[page]))
                if on_progress is not None:
                    on_progress(number, expert.name)
        found |= written
        asked += len(left)
    return [found[expert.page_sha256] for expert in experts], asked


def known_cards(
    library: Library, family: str, agent: Agent, cards: Cards
) -> list[tuple[Expert, ExpertCard | None]]:
    """Return a family's experts with a card, or a page to write one of; others are logged."""
    found = []
    for expert in library.experts(STATUSES):
        if expert.family == family:
            card = cards.find(expert.page_sha256, agent)
            if card is not None or library.holds_page(expert.page_sha256):
                found.append((expert, card))
            else:
                message = "%s is left out: its page is damaged; discover brings it again"
                log.warning(message, expert.ref)
    return found


class _Batch:
    """Keeps cards together, about once a second and whatever ends the block."""

    def __init__(self, cards: Cards, agent: Agent) -> None:
        self._cards, self._agent = cards, agent
        self._new: dict[str, ExpertCard] = {}
        self._kept_at = time.monotonic()

    def __enter__(self) -> "_Batch":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()  # what was answered before a failure was paid for

    def keep(self, page_sha256: str, card: ExpertCard) -> ExpertCard:
        self._new[page_sha256] = card
        if time.monotonic() - self._kept_at > KEPT_AFTER:
            self._flush()
        return card

    def _flush(self) -> None:
        self._cards.keep(self._new.items(), self._agent)
        self._new, self._kept_at = {}, time.monotonic()


def _key(page_sha256: str, agent: Agent) -> str:
    return _key_of(page_sha256, agent.name, agent.model, agent.instruction_version)


def _key_of(page_sha256: str, agent: str, model: str, instructions: str) -> str:
    question = [page_sha256, agent, model, instructions]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()


def _asked(text: bytes) -> tuple[str, str, str] | None:
    """Return agent, model and instructions of a card; None of one that is damaged."""
    try:
        card = ExpertCard.model_validate_json(text)
    except ValidationError:
        return None
    return card.agent, card.model, card.instruction_version
