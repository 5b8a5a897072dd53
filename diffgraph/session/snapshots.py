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
    assets, found = get_family(family).assets, None
    place = family_folder(home, family)
    if wanted is None:
        found = open_in_force(place, snapshot_at)
    elif (place / SNAPSHOTS / wanted).is_dir():
        found = snapshot_at(place, wanted)
    if found is None and assets and (assets / "snapshot").is_dir():
        found = snapshot_at(assets / "snapshot", wanted)
    if found is None:
        missing = f"snapshot {wanted!r}" if wanted else "snapshot yet"
        raise SnapshotError(f"{home} holds no {missing}: run `diffgraph build` first")
    if found.family != family:
        raise SnapshotError(f"snapshot {found.id} is of family {found.family}, not {family}")
    return found
