"""What a language model decides, and what is decided by word lists without one."""

from collections.abc import Callable

from diffgraph.agents.agent import Agent, Candidate, Request, Verdict
from diffgraph.agents.claude import ClaudeAccess, ClaudeAgent
from diffgraph.agents.offline import OfflineAgent
from diffgraph.errors import InputError
from diffgraph.families.vocabulary import Vocabulary


def _offline(vocabulary: Vocabulary, access: ClaudeAccess | None) -> Agent:
    return OfflineAgent(vocabulary)


def _claude(vocabulary: Vocabulary, access: ClaudeAccess | None) -> Agent:
    if access is None:
        raise InputError("the agent `claude` needs a key: set ANTHROPIC_API_KEY")
    return ClaudeAgent(access, vocabulary)


AGENTS: dict[str, Callable[[Vocabulary, ClaudeAccess | None], Agent]] = {
    "offline": _offline,
    "claude": _claude,
}
"""How each agent is made."""

__all__ = [
    "AGENTS",
    "Agent",
    "Candidate",
    "ClaudeAccess",
    "ClaudeAgent",
    "OfflineAgent",
    "Request",
    "Verdict",
    "get_agent",
]


def get_agent(
    name: str = "offline",
    vocabulary: Vocabulary | None = None,
    access: ClaudeAccess | None = None,
) -> Agent:
    """Return the agent of this name.

    Args:
        name: one of `AGENTS`.
        vocabulary: the family's words; by default any word may be known.
        access: how Claude is reached; only that agent needs it.

    Raises:
        InputError: there is no such agent, or it lacks its key.
    """
    make = AGENTS.get(name)
    if make is None:
        raise InputError(f"no agent is called {name!r}: there is {', '.join(sorted(AGENTS))}")
    return make(vocabulary or Vocabulary(), access)
