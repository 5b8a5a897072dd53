"""Where does a home keep what, and which graph and planner of a family are in force?

Experts, cards, embeddings and scores are shared; graphs and planners belong to a family:

    families/<family>/   snapshots/<id>/  planners/<id>/   current  registered  champion  seen

`current` and those behind it are pointers: small files that hold one id. A home of the version
before, which had `snapshots/` and `planners/` of all families side by side, is moved when it is
first used, in steps that each happen or do not: killed between two, the next run goes on.
"""

import logging
import re
from pathlib import Path
from typing import NamedTuple

from diffgraph.artifacts import holding, lock_at, set_aside, storing, write_text
from diffgraph.errors import MissingInput
from diffgraph.foreign_files import parse_json, read_foreign
from diffgraph.permissions import make_folder

log = logging.getLogger(__name__)

FAMILIES = "families"
CURRENT, REGISTERED, CHAMPION, SEEN = "current", "registered", "champion", "seen"
"""The pointers: to the graph that was built last, to the one with what was registered since, to the
planner in force, and to the graph trained on last."""


class Old(NamedTuple):
    """What lay in the home itself: the file that names a family, and where pointers lead."""

    facts: str
    pointers: dict[str, str]


MOVED = {
    "snapshots": Old("manifest.json", {CURRENT: "snapshots"}),
    "planners": Old("config.json", {CHAMPION: "planners", SEEN: "snapshots"}),
}
FIRST = {"library": "listings/*.json", "cards": "*.json"}
"""What only the first version wrote: one file a page, and one a card."""

NAME = re.compile(r"[A-Za-z0-9]{1,64}")
POINTER_BYTES = 1024
FACTS_BYTES = 16 << 20
FACTS = 1 << 20  # values


def family_folder(home: Path, family: str) -> Path:
    """Return where a home keeps what belongs to one family; it need not be there yet.

    Raises:
        MissingInput: the home is one of the first version.
        StorageError: it is one of the version before, and cannot be moved.
    """
    demand_readable(home)
    if any((home / kind).exists() for kind in MOVED):
        _move(home, family)
    return home / FAMILIES / family


def demand_readable(home: Path) -> None:
    """Raise `MissingInput` for a home of the first version, whose files nobody reads any more."""
    for folder, pattern in FIRST.items():
        if next((home / folder).glob(pattern), None) is not None:
            raise MissingInput(
                f"{home} is a home of diffgraph 0.1, which this version does not read "
                f"({folder}/{pattern}): choose another with --home and run `diffgraph discover`"
            )


def is_name(text: str) -> bool:
    """Return whether this can be the id of a snapshot or planner, and nothing like a path."""
    return NAME.fullmatch(text) is not None


def read_pointer(path: Path) -> str | None:
    """Return the id that a pointer holds; None if there is no pointer.

    Raises:
        MissingInput: it is there and holds none, or cannot be read.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        text = read_foreign(path, POINTER_BYTES).decode("utf-8", "replace").strip()
    except MissingInput as error:
        raise MissingInput(f"{path} holds no id: {error}") from error
    if not is_name(text):
        raise MissingInput(f"{path} holds no id, but {text[:40]!r}")
    return text


def write_pointer(path: Path, name: str) -> None:
    """Have a pointer hold an id; what is there and no file is set aside, and told.

    Raises:
        StorageError: it cannot be written.
    """
    if path.is_dir() and not path.is_symlink():
        log.warning("%s is a folder: it is set aside as %s", path, set_aside(path).name)
    write_text(path, name)


def _move(home: Path, asked: str) -> None:
    """Move what lies in the home itself to the families that it belongs to.

    What names no family, as a damaged snapshot or a training that was stopped, goes where the
    others went, or to the family that is asked for.
    """
    families = home / FAMILIES
    with holding(lock_at(families / ".lock")), storing(home):
        old = [home / kind for kind in MOVED if (home / kind).exists()]
        if not old:
            return  # somebody was quicker
        items = [item for folder in old for item in folder.iterdir() if item.name != ".lock"]
        items.sort(key=lambda item: (_is_pointer(item), _stated_family(item) is None))
        for item in items:
            family = _pointed_at(item, families) if _is_pointer(item) else _stated_family(item)
            known = sorted(folder.name for folder in families.glob("*/"))
            place = families / (family or next(iter(known), asked))
            _take(item, place if _is_pointer(item) else place / item.parent.name)
        for folder in old:
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()
    log.warning("%s was written by the version before: its graphs and planners are in %s now, by "
                "family", home, families)  # fmt: skip


def _take(item: Path, folder: Path) -> None:
    make_folder(folder)
    target = folder / item.name
    if target.exists():
        log.warning("%s is there already: it is set aside as %s", target, set_aside(target).name)
    item.rename(target)


def _is_pointer(item: Path) -> bool:
    return item.name in MOVED[item.parent.name].pointers


def _stated_family(item: Path) -> str | None:
    """Return the family that a snapshot or planner names."""
    try:
        data = read_foreign(item / MOVED[item.parent.name].facts, FACTS_BYTES)
        family = str(parse_json(data, FACTS)["family"])
    except (MissingInput, ValueError, KeyError, TypeError):
        return None
    return family if is_name(family) else None


def _pointed_at(pointer: Path, families: Path) -> str | None:
    """Return the family that has what a pointer names."""
    try:
        name = read_pointer(pointer)
    except MissingInput:
        return None
    kind = MOVED[pointer.parent.name].pointers[pointer.name]
    return next((found.parts[-3] for found in families.glob(f"*/{kind}/{name}")), None)
