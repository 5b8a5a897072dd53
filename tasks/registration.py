"""Registering experts: the agent reads each page once, the card is placed among the others."""

from pathlib import Path

from pydantic import BaseModel

from diffgraph.progress import report
from tasks.policies import LOCAL, NETWORK, named, task

PAGES_A_TASK = {"offline": 500, "claude": 5_000}
"""A task costs a fifth of a second, whatever it does; a batch of a language model up to an hour."""


class Registered(BaseModel, frozen=True):
    """What it took to register some experts."""

    experts: int
    asked: int
    """Pages that the agent had to read."""
    embedded: int
    """Cards that had to be placed."""


@task(**LOCAL)
def find_unregistered(home: Path, family: str, agent: str) -> list[str]:
    """Return the experts that have no card of this agent yet, or whose card has no place."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.embedding_store import EmbeddingStore
    from diffgraph.graph.registration import Cards, describable
    from diffgraph.session import Session

    cards, places = Cards(home / "cards"), EmbeddingStore(home / "embeddings")
    reader = Session(home, family, agent_name=agent).agent
    left = []
    for expert in describable(Library(home), family, reader, cards, ("ready", "registered_only")):
        card = cards.find(expert.page_sha256, reader)
        if card is None or card.text not in places:
            left.append(expert.ref)
    return left


@task(**NETWORK, task_run_name=named(lambda given: f"register {given['part']}"))
def register_experts(
    refs: list[str], home: Path, family: str, agent: str, part: str = ""
) -> Registered:
    """Have the agent describe experts, and place their cards; what is known is not done again."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.embedding_store import EmbeddingStore
    from diffgraph.graph.registration import Cards, register_all
    from diffgraph.session import Session

    library, session = Library(home), Session(home, family, agent_name=agent)
    cards, asked = register_all(
        [library.get(ref) for ref in refs],
        library,
        session.agent,
        Cards(home / "cards"),
        lambda done, name: report("register", done, len(refs), name),
    )
    _, embedded = EmbeddingStore(home / "embeddings").embed(
        [card.text for card in cards],
        session.embedder,
        lambda done: report("embed", done, len(refs), part),
    )
    return Registered(experts=len(refs), asked=asked, embedded=embedded)
