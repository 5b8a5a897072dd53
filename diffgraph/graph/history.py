"""What changed from one snapshot to a later one?"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """What changed from an older snapshot to a newer one, by expert reference."""

    new: tuple[str, ...]
    updated: tuple[str, ...]
    retired: tuple[str, ...]


def difference_of(nodes: Any, older: Any | None) -> Difference:
    """Return what is new, updated or retired in a table of experts against an older one, if any."""
    mine, theirs = _facts(nodes), _facts(older) if older is not None else {}
    lineages = {_lineage(ref) for ref in theirs}
    kept = {_lineage(ref) for ref in mine}
    changed = [ref for ref in mine if theirs.get(ref) != mine[ref]]
    return Difference(
        new=tuple(ref for ref in changed if _lineage(ref) not in lineages),
        updated=tuple(ref for ref in changed if _lineage(ref) in lineages),
        retired=tuple(ref for ref in theirs if _lineage(ref) not in kept),
    )


def _facts(nodes: Any) -> dict[str, tuple[str, str, str]]:
    rows = nodes.select(["ref", "sha256", "text", "status"]).to_pylist()
    return {row["ref"]: (row["sha256"], row["text"], row["status"]) for row in rows}


def _lineage(ref: str) -> str:
    return ref.rpartition("@")[0]
