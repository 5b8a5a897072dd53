"""Which words does a family know, and what kinds of things do they name?"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@cache
def everyday_nouns() -> Mapping[str, tuple[str, ...]]:
    """Return everyday English nouns by the broader word for them: `vehicle` → `car`, `bus`."""
    kinds = tomllib.loads(Path(__file__).with_name("nouns.toml").read_text(encoding="utf-8"))
    return {
        kind: (*said["words"].split(), *said.get("phrases", ())) for kind, said in kinds.items()
    }


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What an agent knows of a family's words."""

    known: frozenset[str] | None = None
    """Those it was trained with, in lower case; None: any word may be known."""
    nouns: Mapping[str, tuple[str, ...]] = field(default_factory=everyday_nouns)
    """Kind → its nouns: what a page may call the subject of a prompt. One of several kinds is of
    the first."""
