"""Which folder speaks for a hub's name? Two of one name would retire each other's experts.

`library/hubs.json` says for which folder a name was used last. A folder that was moved may keep its
name, and so may a copy, however much was changed in it: it shares a page or a file with what is
known.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

from diffgraph.artifacts import set_aside, write_text
from diffgraph.errors import InputError, MissingInput
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library, page_hash
from diffgraph.families import FAMILIES
from diffgraph.foreign_files import parse_json, read_foreign

log = logging.getLogger(__name__)

LIVE = {"civitai", "huggingface"}
"""Names of hubs that are read over the network: a folder must not speak for them."""
MOST_BYTES, MOST_VALUES = 1 << 20, 1 << 15


def claim(name: str, folder: Path, library: Library, listings: Iterable[Listing]) -> None:
    """Note that a folder speaks for a name.

    Args:
        name: What the hub calls itself.
        folder: Where it is.
        library: What is known so far.
        listings: What the hub offers; read only if another folder bears the name.

    Raises:
        InputError: Another folder does, still bears the name, and is another hub.
        StorageError: The library cannot be written.
    """
    with library.writing():
        noted = _noted(library.folder / "hubs.json")
        other = Path(noted.get(name, folder))
        if other == folder and name in noted:
            return
        known = {
            what for expert in library.experts() for what in (expert.page_sha256, expert.sha256)
        }
        is_taken = other != folder and not _ships(folder) and name_of(other) == name
        if is_taken and known.isdisjoint(_hashes(listings)):
            raise InputError(
                f"{folder} names itself {name!r}, as {other} does: each would retire the other's "
                f"experts. Give it another name in its hub.json, or move {other} away"
            )
        noted[name] = str(folder)
        _write(noted, library)


def name_for(folder: Path, library: Library, is_moved: Callable[[str], bool]) -> str:
    """Return the name of a folder that gives itself none: its own, which no other folder bears.

    Args:
        folder: The folder.
        library: What is known so far.
        is_moved: Whether the folder that bore a name, and is not there, is this one by its files: a
            disk that is missing tonight keeps its name from all others.
    """
    noted = _noted(library.folder / "hubs.json")
    for name, other in noted.items():
        if other == str(folder) and name_of(folder) is None:
            return name
    for name, other in noted.items():
        if not Path(other).is_dir() and is_moved(name):
            return name
    plain = re.sub(r"[^a-z0-9_]+", "_", folder.name.lower()).strip("_")[:30] or "folder"
    names = (plain if number == 1 else f"{plain}_{number}" for number in count(1))
    taken = noted.keys() | LIVE
    return next(name for name in names if name not in taken)


def name_borne_by(folder: Path, library: Library) -> str | None:
    """Return the name under which a folder was discovered; None if it never was."""
    noted = _noted(library.folder / "hubs.json")
    return next((name for name, other in noted.items() if other == str(folder)), None)


def note(name: str, folder: Path, library: Library) -> None:
    """Write down that a folder bears a name; raises `StorageError`."""
    with library.writing():
        noted = _noted(library.folder / "hubs.json")
        if noted.get(name) != str(folder):
            noted[name] = str(folder)
            _write(noted, library)


def name_of(folder: Path) -> str | None:
    """Return the name that a hub folder gives itself; None if there is no hub any more."""
    try:
        about = parse_json(read_foreign(folder / "hub.json", MOST_BYTES), MOST_VALUES)
    except (MissingInput, ValueError):
        return None
    return str(about.get("name")) if isinstance(about, dict) else None


def _hashes(listings: Iterable[Listing]) -> Iterator[str]:
    """Yield what pages and their files are known by."""
    for listing in listings:
        yield page_hash(listing)
        if listing.file is not None and listing.file.sha256:
            yield listing.file.sha256.lower()


def _write(noted: dict[str, str], library: Library) -> None:
    write_text(library.folder / "hubs.json", json.dumps(noted, indent=1, sort_keys=True))


def _noted(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        noted = parse_json(read_foreign(path, MOST_BYTES), MOST_VALUES)
        return {str(name): str(folder) for name, folder in noted.items()}
    except (MissingInput, ValueError, AttributeError) as error:
        log.warning("%s is damaged (%s); it is set aside as %s", path, error, set_aside(path).name)
        return {}


def _ships(folder: Path) -> bool:
    hubs = (family.hub for family in FAMILIES.values())
    return any(hub is not None and hub.resolve() == folder for hub in hubs)
