"""What a language model decides, and who answers when none is asked."""

from collections.abc import Callable

from diffgraph.agents.agent import Agent, Candidate, Request, Verdict
from diffgraph.agents.offline import OfflineAgent
from diffgraph.errors import InputError

AGENTS: dict[str, Callable[[frozenset[str] | None], Agent]] = {"offline": OfflineAgent}
"""How each agent is made, given the words the family knows (None: any word may be known)."""

__all__ = ["AGENTS", "Agent", "Candidate", "OfflineAgent", "Request", "Verdict", "get_agent"]


def get_agent(name: str = "offline", known_words: frozenset[str] | None = None) -> Agent:
    """Return the agent of this name.

    Raises:
        InputError: there is no such agent.
    """
    make = AGENTS.get(name)
    if make is None:
        raise InputError(f"no agent is called {name!r}: there is {', '.join(sorted(AGENTS))}")
    return make(known_words)
