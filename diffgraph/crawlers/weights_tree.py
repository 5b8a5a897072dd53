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
OTHER_FORMATS = {".gguf", ".onnx"}
SEEN = {
    WEIGHTS,
    *CODE,
    *OTHER_FORMATS,
    *(os.path.splitext(f"x{ending}")[1] for ending in endings()),
}
"""How all names end that may matter; a folder may hold a million others."""

Entries = dict[str, "os.DirEntry[str]"]


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
        others: Counts weights in formats that are not read, by how their names end.
    """
    for opened in _folders(top):
        if isinstance(opened, BrokenPage):
            yield opened
        else:
            yield from _files_of(*opened, others)


def names(top: Path) -> Iterator[list[Path]]:
    """Yield the weights files of each folder of a tree by their names, of which none is touched."""
    for opened in _folders(top):
        if not isinstance(opened, BrokenPage):
            folder, here = opened
            yield [folder / name for name in here if _ending(name) == WEIGHTS]


def _folders(top: Path) -> Iterator[tuple[Path, Entries] | BrokenPage]:
    """Yield each folder with what may matter in it, or why it cannot be read."""
    visited: set[tuple[int, int]] = set()
    waiting = [(top, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in visited:
                continue
            visited.add((about.st_dev, about.st_ino))
            files, below = _entries(folder)
        except OSError as error:
            where = printable(str(folder))
            yield BrokenPage(where=where, reason=f"cannot be looked through: {error.strerror}")
            continue
        yield folder, files
        if depth < DEEPEST:
            waiting.extend((folder / name, depth + 1) for name in sorted(below, reverse=True))


def _entries(folder: Path) -> tuple[Entries, list[str]]:
    """Return what may matter in a folder by name, and the folders in it; nothing hidden."""
    files, below = {}, []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                below.append(entry.name)
            elif _ending(entry.name) in SEEN:
                files[entry.name] = entry
    return files, below


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files_of(folder: Path, here: Entries, others: Counter[str]) -> Iterator[FoundFile]:
    for name in sorted(here):
        ending = _ending(name)
        if ending in CODE or ending in OTHER_FORMATS:
            others[ending] += 1
        if ending != WEIGHTS:
            continue
        found = _found(folder / name, here)
        if found is not None:
            yield found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _found(file: Path, here: Entries) -> FoundFile | None:
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
