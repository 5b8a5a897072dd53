"""What does a home hold that nothing needs, and how much room does it take?

Never what is in force: of each family the graph and the planner in use, the graph that training was
last tried on and the one its planner was trained on stay. Answers of a language model were paid
for: they go only by name.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from diffgraph.artifacts import storing
from diffgraph.errors import MissingInput
from diffgraph.experts.library import Library
from diffgraph.foreign_files import parse_json, read_foreign
from diffgraph.graph.schema import BASE
from diffgraph.graph.snapshot import SNAPSHOTS
from diffgraph.homes import (
    CHAMPION,
    CURRENT,
    FAMILIES,
    REGISTERED,
    SEEN,
    family_folder,
    read_pointer,
)
from diffgraph.permissions import OURS
from diffgraph.session.removal import scored_expert

DAMAGED = re.compile(r".+\.damaged(-\d+)?")
CONFIG_BYTES, CONFIG_VALUES = 1 << 20, 1 << 16
PAID = "answers"


class Spare(BaseModel, frozen=True):
    """Files and folders of one kind that may go."""

    kind: str
    what: str
    bytes: int
    paths: tuple[Path, ...]


def spare(home: Path) -> list[Spare]:
    """Return what may go, kind by kind; nothing is touched.

    Raises:
        MissingInput: it is a home of the first version, or a pointer of it is damaged: what is in
            force cannot be told.
    """
    found = []
    for kind, (what, look) in KINDS.items():
        paths = tuple(sorted(set(look(home))))
        found.append(Spare(kind=kind, what=what, bytes=sum(map(_size, paths)), paths=paths))
    return found


def free(found: Iterable[Spare]) -> None:
    """Remove these; raises `StorageError` if one of them cannot be removed."""
    for one in found:
        for path in one.paths:
            with storing(path), contextlib.suppress(FileNotFoundError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _images(home: Path) -> Iterator[Path]:
    for folder in ("images", "reports"):
        yield from (home / folder).glob("*")


def _answers(home: Path) -> Iterator[Path]:
    yield from (home / PAID).glob("[0-9a-f][0-9a-f]")


def _unfinished(home: Path) -> Iterator[Path]:
    yield from (home / "library" / "unfinished").glob("*")


def _graphs(home: Path) -> Iterator[Path]:
    for place in _families(home):
        kept = {read_pointer(place / name) for name in (CURRENT, REGISTERED, SEEN)}
        kept.add(_trained_on(place))
        yield from _whole_but(place / SNAPSHOTS, kept)


def _planners(home: Path) -> Iterator[Path]:
    unsent = "".join(
        file.read_text(encoding="utf-8", errors="replace")
        for file in (home / "unsent").glob("*.json")
    )
    for place in _families(home):
        for folder in _whole_but(place / "planners", {read_pointer(place / CHAMPION)}):
            if folder.name not in unsent:  # recorded first
                yield folder


def _weights(home: Path) -> Iterator[Path]:
    needed = {expert.sha256 for expert in Library(home).experts()}
    for file in (home / "library" / "files").glob("*.safetensors"):
        if file.stem not in needed:
            yield file


def _scores(home: Path) -> Iterator[Path]:
    known = {BASE, *(expert.ref for expert in Library(home).experts())}
    for part in (home / "scores").glob("*.parquet"):
        expert = scored_expert(part)
        if expert is not None and expert not in known:
            yield part


def _damaged(home: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in home.glob(pattern):
            ours = path.relative_to(home).parts[0].partition(".damaged")[0] in OURS
            if ours and DAMAGED.fullmatch(path.name):
                yield path


KINDS: Mapping[str, tuple[str, Callable[[Path], Iterator[Path]]]] = {
    "images": ("images and reports of evaluations", _images),
    "downloads": ("downloads that were not finished", _unfinished),
    "graphs": ("graphs that are not in force", _graphs),
    "planners": ("planners that are not in force, and trainings that were stopped", _planners),
    "weights": ("weights of no expert that is known", _weights),
    "scores": ("scores of no expert that is known", _scores),
    "damaged": ("what was found damaged and set aside", _damaged),
    PAID: ("answers of a language model: they were paid for", _answers),
}
"""What may go: its name → what it is, and where it is found."""


def _families(home: Path) -> list[Path]:
    names = [folder.name for folder in sorted((home / FAMILIES).glob("*/"))]
    return [family_folder(home, name) for name in names]


def _whole_but(folder: Path, kept: set[str | None]) -> Iterator[Path]:
    for path in folder.glob("[!.]*/"):
        if path.name not in kept and not DAMAGED.fullmatch(path.name):
            yield path


def _trained_on(place: Path) -> str | None:
    """Return the graph that the planner in force was trained on."""
    champion = read_pointer(place / CHAMPION)
    if champion is None:
        return None
    try:
        data = read_foreign(place / "planners" / champion / "config.json", CONFIG_BYTES)
        return str(parse_json(data, CONFIG_VALUES)["snapshot"])
    except (MissingInput, ValueError, KeyError, TypeError):
        return None


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
