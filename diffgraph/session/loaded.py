"""What does a process keep loaded? A model takes seconds: it is loaded once, for one family."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.families import get_family

if TYPE_CHECKING:
    from diffgraph.agents import Agent
    from diffgraph.families.family import SamplerConfig
    from diffgraph.generation import Renderer
    from diffgraph.graph.embedding import TextEmbedder
    from diffgraph.scoring import Scorer
    from diffgraph.session.known_experts import KnownExperts


@lru_cache(maxsize=4)
def experts(home: Path, family: str) -> "KnownExperts":
    """Return the experts that a plan may name."""
    from diffgraph.session.known_experts import KnownExperts

    return KnownExperts(home, get_family(family))


@lru_cache(maxsize=1)
def renderer(home: Path, name: str, device: str, sampler: "SamplerConfig") -> "Renderer":
    """Return what draws plans."""
    from diffgraph.generation import Renderer

    return Renderer(replace(get_family(name), sampler=sampler), experts(home, name), device)


@lru_cache(maxsize=1)
def scorers(family: str, names: tuple[str, ...], device: str) -> "dict[str, Scorer]":
    """Return what scores images, by name, in this order."""
    from diffgraph.scoring import get_scorers

    return get_scorers(family, device, names)


@lru_cache(maxsize=1)
def embedder() -> "TextEmbedder":
    """Return what places texts among others."""
    from diffgraph.graph.embedding import TextEmbedder

    return TextEmbedder()


@lru_cache(maxsize=4)
def agent(name: str, family: str, home: Path) -> "Agent":
    """Return who reads pages and prompts."""
    from diffgraph.session.agents import make_agent

    return make_agent(name, family, home)
