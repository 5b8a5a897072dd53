"""Which weights files lie in a tree, and what lies beside each?

Links are followed, each folder once, so that a circle ends. A folder is in memory one at a time.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.examining import CODE
from diffgraph.crawlers.sidecars import endings
from diffgraph.printable import printable

WEIGHTS = ".safetensors"
DEEPEST = 40  # folders within folders


class FoundFile(NamedTuple):
    """A weights file, and what decides what its page says."""

    file: Path
    present: frozenset[str]
    """The names of what is read beside it."""
    stamp: str
    """Sizes and times of all of these; empty if they cannot be told."""
    size: int


def walk(top: Path, others: Counter[str]) -> Iterator[FoundFile | BrokenPage]:
    """Yield the weights files of a tree, folder by folder, and the folders that cannot be read.

    Args:
        top: The folder.
        others: Counts files that could run code, by how their names end.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [(top, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in visited:
                continue
            visited.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                here = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
        except OSError as error:
            where = printable(str(folder))
            yield BrokenPage(where=where, reason=f"cannot be looked through: {error.strerror}")
            continue
        yield from _files_of(folder, here, others)
        if depth < DEEPEST:
            folders = (name for name in sorted(here, reverse=True) if _is_folder(here[name]))
            waiting.extend((folder / name, depth + 1) for name in folders)


def _files_of(
    folder: Path, here: dict[str, "os.DirEntry[str]"], others: Counter[str]
) -> Iterator[FoundFile]:
    for name in sorted(here):
        ending = os.path.splitext(name)[1].lower()
        if ending in CODE:
            others[ending] += 1
        if ending != WEIGHTS or _is_folder(here[name]):
            continue
        found = _found(folder / name, here)
        if found is not None:
            yield found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _found(file: Path, here: dict[str, "os.DirEntry[str]"]) -> FoundFile | None:
    """Return a file with all that decides what its page says; None if it has just gone."""
    present = [name for ending in endings() if (name := file.stem + ending) in here]
    try:
        about = here[file.name].stat()
        stamp = [[about.st_size, about.st_mtime_ns]]
        for name in present:
            beside = here[name].stat(follow_symlinks=False)
            stamp.append([beside.st_size, beside.st_mtime_ns])
    except FileNotFoundError:
        return FoundFile(file, frozenset(), "", 0) if here[file.name].is_symlink() else None
    except OSError:  # a link in a circle
        return FoundFile(file, frozenset(), "", 0)
    return FoundFile(file, frozenset(present), json.dumps([stamp, present]), about.st_size)
