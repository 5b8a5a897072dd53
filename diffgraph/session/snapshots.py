"""Which graph is in force? The home's, or else the one that ships with the family."""

from functools import lru_cache
from pathlib import Path

from diffgraph.errors import SnapshotError
from diffgraph.families import get_family
from diffgraph.graph.in_force import open_in_force
from diffgraph.graph.snapshot import SNAPSHOTS, GraphSnapshot, open_snapshot
from diffgraph.homes import family_folder

snapshot_at = lru_cache(maxsize=2)(open_snapshot)
"""Opens a snapshot once a process."""


def find_snapshot(home: Path, family: str, wanted: str | None = None) -> GraphSnapshot:
    """Return the graph of this id, or else the one in force.

    Raises:
        SnapshotError: there is none, it is damaged, or it is of another family.
    """
    found = snapshot_in_force(home, family) if wanted is None else None
    if wanted is not None:
        place = family_folder(home, family)
        is_own = (place / SNAPSHOTS / wanted).is_dir()
        found = snapshot_at(place, wanted) if is_own else _shipped(family, wanted)
    if found is None:
        missing = f"snapshot {wanted!r}" if wanted else f"expert of {family} yet"
        raise SnapshotError(f"{home} holds no {missing}: run `diffgraph discover` first")
    if found.family != family:
        raise SnapshotError(f"snapshot {found.id} is of family {found.family}, not {family}")
    return found


def snapshot_in_force(home: Path, family: str) -> GraphSnapshot | None:
    """Return the graph that a home uses, its own or the one that ships; None if there is none."""
    return open_in_force(family_folder(home, family), snapshot_at) or _shipped(family)


def _shipped(family: str, wanted: str | None = None) -> GraphSnapshot | None:
    assets = get_family(family).assets
    if assets is None or not (assets / "snapshot").is_dir():
        return None
    return snapshot_at(assets / "snapshot", wanted)
