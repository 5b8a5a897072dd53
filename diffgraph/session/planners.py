"""Which planner of a family is in force, and where are the others?

Below `families/<family>/planners/` of the home, and with each family.
"""

import logging
import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.artifacts import sha256_of
from diffgraph.errors import MissingInput
from diffgraph.families import get_family
from diffgraph.homes import CHAMPION, family_folder, is_name, read_pointer

if TYPE_CHECKING:
    from diffgraph.planner.planner import Planner

log = logging.getLogger(__name__)

SHIPPED = "shipped"
"""Names the planner that comes with a family."""
UNTRAINED = "untrained"
"""Stands for a planner where there is none yet: plans are at the strengths of pages."""


def planner_in_force(home: Path, family: str) -> tuple[Path, str]:
    """Return folder and content hash of the planner to use; of a damaged champion's, another's.

    Both are `UNTRAINED` as long as the family has none.

    Raises:
        MissingInput: there is none that can be read.
    """
    if not has_planner(home, family):
        return planners_folder(home, family) / UNTRAINED, UNTRAINED
    try:
        folder = champion_folder(home, family)
        return folder, _content_of_whole(folder, family)
    except MissingInput as error:
        for folder in _other_planners(home, family):
            try:
                content = _content_of_whole(folder, family)
            except MissingInput:
                continue
            log.warning("%s; %s is used instead until one is trained", error, folder)
            return folder, content
        raise


def has_planner(home: Path, family: str) -> bool:
    """Return whether a planner was ever promoted, or ships with the family."""
    pointer, assets = family_folder(home, family) / CHAMPION, get_family(family).assets
    return os.path.lexists(pointer) or (assets is not None and (assets / "planner").is_dir())


def champion_folder(home: Path, family: str) -> Path:
    """Return the folder of the planner that was promoted last, or of the one that ships."""
    pointer = family_folder(home, family) / CHAMPION
    if named := read_pointer(pointer):
        folder = planners_folder(home, family) / named
        if not (folder / "config.json").is_file():
            raise MissingInput(f"{pointer} names {named!r}, and no such planner is beside it")
        return folder
    assets = get_family(family).assets
    if assets is None or not (assets / "planner").is_dir():
        raise MissingInput(f"{home} holds no planner yet: run `diffgraph train` first")
    return assets / "planner"


def planners_folder(home: Path, family: str) -> Path:
    """Return the folder in which a home keeps the planners of a family."""
    return family_folder(home, family) / "planners"


def planner_content(folder: Path) -> str:
    """Return the content hash of a planner's folder; raises `MissingInput` if there is none."""
    if folder.name == UNTRAINED:
        return UNTRAINED
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
        hashes = [sha256_of(file) for file in files]
    except OSError as error:
        raise MissingInput(f"no planner can be read from {folder}: {error.strerror}") from error
    return sha256("".join(hashes).encode()).hexdigest()[:16]


def _content_of_whole(folder: Path, family: str) -> str:
    """Return a planner's content hash; raises `MissingInput` if it cannot plan for the family."""
    content = planner_content(folder)
    trained_for = load_planner(folder, content).config.family
    if trained_for != family:
        raise MissingInput(f"{folder} holds a planner of {trained_for}, not of {family}")
    return content


def _other_planners(home: Path, family: str) -> "list[Path]":
    """Return who may stand in for a damaged champion: the one that ships, then the newest."""
    assets = get_family(family).assets
    shipped = [assets / "planner"] if assets else []
    own = [file.parent for file in planners_folder(home, family).glob("*/config.json")]
    own = [folder for folder in own if is_name(folder.name)]
    return [*shipped, *sorted(own, key=lambda one: one.stat().st_mtime_ns, reverse=True)]


def planner_folder(home: Path, family: str, planner_id: str) -> Path:
    """Return the folder of a planner of the home, or of the one that comes with the family."""
    assets = get_family(family).assets
    folder = planners_folder(home, family) / planner_id
    if planner_id == UNTRAINED:
        return folder
    if planner_id == SHIPPED and assets is not None:
        folder = assets / "planner"
    if not is_name(planner_id) or not (folder / "config.json").is_file():
        raise MissingInput(f"{home} holds no planner {planner_id[:80]!r} of {family}")
    return folder


def planner_name(family: str, folder: Path) -> str:
    """Return the name by which `planner_folder` finds a planner again."""
    assets = get_family(family).assets
    return SHIPPED if assets is not None and folder == assets / "planner" else folder.name


@lru_cache(maxsize=2)
def load_planner(folder: Path, content: str) -> "Planner":
    """Return the planner of a folder, read once a content; raises `MissingInput`."""
    from diffgraph.planner.planner import Planner

    return Planner.load(folder)
