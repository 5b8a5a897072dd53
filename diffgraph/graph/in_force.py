"""Which graph does a family use, and what becomes of a damaged one?

`registered` in its folder names it, or else `current`: what was discovered since the last build can
be planned with at once. If a pointer or what it names is damaged, a reader uses the
newest whole snapshot and says so; the next `build` sets the damaged one aside under another name,
makes the newest whole one current, and writes the graph anew.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from diffgraph.artifacts import set_aside, storing
from diffgraph.errors import DamagedSnapshot, MissingInput, SnapshotError
from diffgraph.graph.snapshot import (
    SNAPSHOTS,
    GraphSnapshot,
    current_id,
    open_snapshot,
    snapshot_ids,
    writing,
)
from diffgraph.homes import CURRENT, REGISTERED, read_pointer, write_pointer

log = logging.getLogger(__name__)

Opener = Callable[[Path, str], GraphSnapshot]


def open_in_force(place: Path, opened: Opener = open_snapshot) -> GraphSnapshot | None:
    """Return the graph that a family uses; None if it has none.

    Args:
        place: the folder of the family in a home; nothing is written.
        opened: how a snapshot of a family is opened, by its id.

    Raises:
        SnapshotError: the current one cannot be used, and no other is whole.
    """
    try:
        if registered := read_pointer(place / REGISTERED):
            return opened(place, registered)
    except (MissingInput, DamagedSnapshot) as error:
        log.warning("%s; the graph that was built last is used until the next discover", error)
    try:
        current = current_id(place)
        return opened(place, current) if current else None
    except DamagedSnapshot as error:
        found = _newest_whole(place, opened)
        if found is None:
            raise
        log.warning("%s; snapshot %s is used until the next `diffgraph build`", error, found.id)
        return found


def mend(place: Path) -> GraphSnapshot | None:
    """Return the graph that a family uses, once what is damaged is set aside and logged.

    Raises:
        SnapshotError: the current one is whole but cannot be used, as one of a later version.
        StorageError: the folder cannot be written.
    """
    try:
        current = current_id(place)
        return open_snapshot(place, current) if current else None
    except DamagedSnapshot:
        with writing(place):
            return _mended(place)


def _mended(place: Path) -> GraphSnapshot | None:
    pointer = place / CURRENT
    named: str | None = None
    try:
        named = current_id(place)
        return open_snapshot(place, named) if named else None  # another process was quicker
    except DamagedSnapshot as error:
        folder = place / SNAPSHOTS / named if named else None
        aside = set_aside(folder if folder is not None and folder.exists() else pointer)
        found = _newest_whole(place, open_snapshot)
        if found is not None:
            write_pointer(pointer, found.id)
        else:
            with storing(pointer):
                pointer.unlink(missing_ok=True)
        next_one = f"snapshot {found.id} is in force" if found else "the graph is made again"
        log.warning("%s; it is set aside as %s, and %s", error, aside, next_one)
        return found


def _newest_whole(place: Path, opened: Opener) -> GraphSnapshot | None:
    for snapshot_id in reversed(snapshot_ids(place)):
        try:
            return opened(place, snapshot_id)
        except SnapshotError as error:
            log.debug("snapshot %s is passed over: %s", snapshot_id, error)
    return None
