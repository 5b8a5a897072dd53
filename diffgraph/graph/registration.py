"""How does an expert become a node? An agent reads its page once and writes a card.

The paper's node registration (https://arxiv.org/abs/2603.20470, section 3.1). A card is kept under
the page it describes, the agent, its model and its instructions: the same question is never asked
twice.
"""

import hashlib
import json
import logging
from pathlib import Path

from pydantic import ValidationError

from diffgraph.agents.agent import Agent
from diffgraph.artifacts import write_text
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import page_hash

log = logging.getLogger(__name__)


def register(listing: Listing, agent: Agent, cache: Path) -> ExpertCard:
    """Return the expert's card, from the cache folder or else from the agent.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    path = cache / f"{_key(listing, agent)}.json"
    known = _read(path)
    if known is not None:
        return known
    card = agent.describe(listing)
    write_text(path, card.model_dump_json(indent=1) + "\n")
    return card


def _key(listing: Listing, agent: Agent) -> str:
    question = [page_hash(listing), agent.name, agent.model, agent.instruction_version]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()


def _read(path: Path) -> ExpertCard | None:
    """Return a kept card; None if there is none, or it cannot be read."""
    try:
        return ExpertCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("the card %s is damaged and is asked for again: %s", path, error)
        return None
