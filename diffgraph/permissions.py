"""Permissions of what is written: below a home for its user alone; elsewhere by the umask.

A home holds prompts, answers that were paid for, and what hubs gave under a token. Its user may
open it to a group (`chmod 750`): then what is written below it is for the group, too.
"""

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = 0o007
GROUP_AND_OTHERS = 0o077
OURS = frozenset(
    """
    library crawls cards answers embeddings scores families images reports locks
    snapshots planners
    unsent mlflow.db mlartifacts prefect
    """.split()
)
"""What a home holds, or held; only where it holds nothing else is the folder ours to close."""

_homes: dict[Path, bool] = {}  # home -> whether it was looked at since this process began
_umask = threading.Lock()


def keep_private(home: Path) -> None:
    """Have all that is written below this folder be its user's alone, from now on."""
    _homes.setdefault(_plain(home), False)


def mode_of(path: Path) -> int:
    """Return the permissions of a file that is made at `path`."""
    home = _home_of(path)
    if home is None:
        return 0o666 & ~_present_umask()
    return _folder_mode(home) & 0o666 & ~(_present_umask() & 0o020)


def opener(name: str, flags: int) -> int:
    """Open a file for `open(…, opener=opener)`; a new one has the permissions of its place."""
    return os.open(name, flags, mode_of(Path(name)))


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in; a home and what is below it for its user alone."""
    home = _home_of(path)
    if home is not None and not _homes[home]:
        _homes[home] = True
        close(home)
    for place in reversed([path, *path.parents]):
        if not place.is_dir():
            private = home is not None and _plain(place).is_relative_to(home)
            place.mkdir(_folder_mode(home) if home and private else 0o777, exist_ok=True)


def close_folder(part: Path, path: Path) -> None:
    """Give a folder that will be at `path`, and all in it, the permissions of its place."""
    home = _home_of(path)
    for place in (part, *part.rglob("*")):
        if place.is_symlink():
            continue
        if place.is_dir():
            place.chmod(_folder_mode(home) if home else 0o777 & ~_present_umask())
        else:
            place.chmod(mode_of(path))


def close(home: Path) -> None:
    """Take a home that others may enter from them, and all that is in it.

    One that only a group may enter was opened by its user. What belongs to another user, or does
    not belong to a home, stays as it is.
    """
    if not home.is_dir() or not _bits(home) & OTHERS:
        return
    found = {entry.name: Path(entry.path) for entry in os.scandir(home)}
    ours = [path for name, path in found.items() if _is_ours(name)]
    for path in ours:
        for place in (path, *(path.rglob("*") if path.is_dir() else ())):
            _take_away(place)
    if all(_is_ours(name) or name.startswith(".") for name in found):
        _take_away(home)
        if ours:
            log.warning("%s could be read by others: it is its user's alone now", home)


@contextlib.contextmanager
def private_umask(home: Path) -> Iterator[None]:
    """Have libraries that write files of a home themselves write them for its user alone."""
    before = os.umask(0o777 & ~_folder_mode(home))
    try:
        yield
    finally:
        os.umask(before)


def forget_homes() -> None:
    """Forget the calls of `keep_private`: a test leaves the process as it found it."""
    _homes.clear()


def _is_ours(name: str) -> bool:
    """Return whether a home holds this, or what was set aside of it: `mlflow.db.damaged-2`."""
    return name in OURS or name.partition(".damaged")[0] in OURS


def _take_away(place: Path) -> None:
    with contextlib.suppress(OSError):  # gone meanwhile, or another user's
        about = place.lstat()
        mode = stat.S_IMODE(about.st_mode)
        if mode & GROUP_AND_OTHERS and not stat.S_ISLNK(about.st_mode):
            place.chmod(mode & ~GROUP_AND_OTHERS)


def _home_of(path: Path) -> Path | None:
    if not _homes:
        return None
    place = _plain(path)
    return next((home for home in _homes if place.is_relative_to(home)), None)


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _folder_mode(home: Path) -> int:
    bits = _bits(home)
    return 0o700 if bits & OTHERS else 0o700 | bits & 0o070


def _bits(home: Path) -> int:
    """Return the permissions of a home; those of a new one if it is not there yet."""
    try:
        return stat.S_IMODE(home.stat().st_mode)
    except OSError:
        return 0o700


def _present_umask() -> int:
    with _umask:  # there is no other way to ask; meanwhile files are made closed, not open
        present = os.umask(GROUP_AND_OTHERS)
        os.umask(present)
    return present
