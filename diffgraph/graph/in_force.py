"""Which graph does a home use, and what becomes of a damaged one?

`snapshots/current` names it. If the pointer or what it names is damaged, a reader uses the newest
whole snapshot and says so; the next `build` sets the damaged one aside under another name, makes
the newest whole one current, and writes the graph anew.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from diffgraph.artifacts import set_aside, storing, write_text
from diffgraph.errors import DamagedSnapshot, SnapshotError
from diffgraph.graph.snapshot import (
    CURRENT,
    GraphSnapshot,
    current_id,
    open_snapshot,
    snapshot_ids,
    writing,
)

log = logging.getLogger(__name__)

Opener = Callable[[Path, str], GraphSnapshot]


def open_in_force(home: Path, opened: Opener = open_snapshot) -> GraphSnapshot | None:
    """Return the graph that a home uses; None if it has none.

    Args:
        home: the home folder; nothing is written.
        opened: how a snapshot of a home is opened, by its id.

    Raises:
        SnapshotError: the current one cannot be used, and no other is whole.
    """
    try:
        current = current_id(home)
        return opened(home, current) if current else None
    except DamagedSnapshot as error:
        found = _newest_whole(home, opened)
        if found is None:
            raise
        log.warning("%s; snapshot %s is used until the next `diffgraph build`", error, found.id)
        return found


def mend(home: Path) -> GraphSnapshot | None:
    """Return the graph that a home uses, once what is damaged is set aside and told.

    Raises:
        SnapshotError: the current one is whole but cannot be used, as one of a later version.
        StorageError: the home cannot be written.
    """
    try:
        current = current_id(home)
        return open_snapshot(home, current) if current else None
    except DamagedSnapshot:
        with writing(home):
            return _mended(home)


def _mended(home: Path) -> GraphSnapshot | None:
    root = home / "snapshots"
    named: str | None = None
    try:
        named = current_id(home)
        return open_snapshot(home, named) if named else None  # somebody was quicker
    except DamagedSnapshot as error:
        folder = root / named if named else None
        aside = set_aside(folder if folder is not None and folder.exists() else root / CURRENT)
        found = _newest_whole(home, open_snapshot)
        if found is not None:
            write_text(root / CURRENT, found.id)
        else:
            with storing(root):
                (root / CURRENT).unlink(missing_ok=True)
        next_one = f"snapshot {found.id} is in force" if found else "the graph is made again"
        log.warning("%s; it is set aside as %s, and %s", error, aside, next_one)
        return found


def _newest_whole(home: Path, opened: Opener) -> GraphSnapshot | None:
    for snapshot_id in reversed(snapshot_ids(home)):
        try:
            return opened(home, snapshot_id)
        except SnapshotError as error:
            log.debug("snapshot %s is passed over: %s", snapshot_id, error)
    return None
