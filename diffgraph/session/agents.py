"""Who reads pages and prompts in this process, and what did that cost?"""

from pathlib import Path

from diffgraph.agents import Agent, ClaudeAccess, get_agent
from diffgraph.agents.example_images import ImageReader
from diffgraph.agents.messages import ClaudeConfig
from diffgraph.agents.spending import Ledger, Spending
from diffgraph.families import FAMILIES, get_family
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings

ANSWERS = "answers"
"""The folder of the home in which a language model's answers and their costs are kept."""


def make_agent(name: str, family: str, home: Path) -> Agent:
    """Return the agent of this name for a family and a home.

    Key, model, cap and config are read here, from the settings of the process that needs them: the
    key is no argument of any task, so Prefect never sees it.

    Raises:
        InputError: there is no such agent, or it lacks its key.
    """
    return get_agent(name, get_family(family).vocabulary(), _access(name, home))


def _access(name: str, home: Path) -> ClaudeAccess | None:
    if name != "claude":
        return None
    settings = Settings()
    config = read_overrides(settings.config).of(ClaudeConfig())
    return ClaudeAccess(
        folder=home / ANSWERS,
        key=settings.anthropic_api_key,
        model=settings.claude_model,
        cap=settings.claude_cap,
        base_url=settings.anthropic_base_url,
        read_image=ImageReader(_hubs(), config.image_hosts),
        config=config,
    )


def _hubs() -> dict[str, Path]:
    """Return the hub folders that ship with families, by the name of their source."""
    from diffgraph.crawlers.folder import FolderCrawler

    folders = (get_family(name).hub for name in FAMILIES)
    return {FolderCrawler(folder).source: folder for folder in folders if folder is not None}


def spent_since(home: Path, moment: float) -> Spending:
    """Return what a language model's answers took since a moment (seconds since 1970)."""
    return Ledger(home / ANSWERS).since(moment)
