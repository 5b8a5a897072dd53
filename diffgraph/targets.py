"""May a verb write to a given path? Never over what is kept, and over nothing unasked."""

import os
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from diffgraph.artifacts import demand_local
from diffgraph.errors import InputError, StorageError
from diffgraph.permissions import OURS
from diffgraph.settings import Settings

WEIGHTS = (".safetensors", ".sft")
"""How the names of the weights files end that are written; other tools open others by pickle."""
FILES = (
    *WEIGHTS,
    *(".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".gguf", ".onnx", ".npz", ".zip"),
    *(".png", ".jpg", ".jpeg", ".webp", ".html", ".htm", ".pdf"),
    *(".json", ".jsonl", ".csv", ".parquet", ".txt", ".toml", ".yaml", ".yml"),
)
"""Suffixes that mean a file, never a folder."""
KEPT = sorted(OURS - {"images", "reports"})
"""What diffgraph keeps in its home and only its own stages write."""

Identity = tuple[int, int]
"""Of a file or folder, whatever it is called: its device and its number there."""


class FileLayout(StrEnum):
    """How a merged model is laid out."""

    SINGLE_FILE = "single-file"
    DIFFUSERS = "diffusers"


class FileType(StrEnum):
    """The type of the numbers in a file."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


def model_target(text: str, layout: FileLayout | None) -> tuple[Path, FileLayout]:
    """Return where a model is written, and in which layout.

    Args:
        text: the name of a weights file; or of a folder, which has no suffix, or a `/` at its end,
            or is there.
        layout: if it is not left to the name.

    Raises:
        InputError: the name is of neither, or contradicts the layout.
    """
    path = Path(text)
    is_weights = path.name.lower().endswith(WEIGHTS)
    is_folder = text.endswith(("/", os.sep)) or path.is_dir()
    if layout is None and (is_folder or not path.suffix) and not is_weights:
        layout = FileLayout.DIFFUSERS
    if layout is FileLayout.DIFFUSERS and (is_folder or not path.name.lower().endswith(FILES)):
        return path, layout
    if layout is not FileLayout.DIFFUSERS and is_weights and not is_folder:
        return path, FileLayout.SINGLE_FILE
    raise InputError(
        f"{text}: a model is written as a {' or '.join(WEIGHTS)} file, or as a folder, whose name "
        "has no suffix or a / at its end"
    )


def demand_suffix(out: Path, suffixes: Sequence[str]) -> None:
    """Raise `InputError` unless `out` is named as what is written there."""
    if not out.name.lower().endswith(tuple(suffixes)):
        raise InputError(f"{out}: what is written there is a {' or '.join(suffixes)} file")


def demand_new(out: Path, settings: Settings, force: bool = False, ours: str = "") -> None:
    """Raise `InputError` unless a new file or folder may take the name `out`.

    Args:
        out: where it is written.
        settings: where things are.
        force: whether what is there already may go.
        ours: what a folder must hold to go: only such as a verb wrote itself.
    """
    demand_not_kept(out, settings)
    if not os.path.lexists(out):
        return
    if out.is_dir():
        if not any(out.iterdir()):
            return
        if force and not (ours and (out / ours).is_file()):
            raise InputError(f"{out} is a folder that diffgraph did not write: it stays")
        within = _identity(out)
        for what, place in _kept(settings):
            if place.exists() and within in _lineage(place):
                raise InputError(f"{out} holds {what} ({place}): it stays")
    elif not out.is_file():
        raise InputError(f"{out} is there already, and is no file")
    if not force:
        raise InputError(
            f"{out} is there already: name another, or say that it may go (--force, force=True)"
        )


def demand_folder(
    out: Path,
    settings: Settings,
    force: bool = False,
    files: Iterable[str] = (),
    begun: str = "",
    read: Path | None = None,
) -> None:
    """Raise unless files may be put into a folder, which may be there.

    Args:
        out: the folder.
        settings: where things are.
        force: whether `files` that are there already may go.
        files: the names of what is written.
        begun: what is in the folder if an earlier run of the same verb wrote these.
        read: what the run reads, and must not write over either.

    Raises:
        InputError: it may not be written, or names a file.
        StorageError: something else is in the way.
    """
    demand_not_kept(out, settings)
    if os.path.lexists(out) and not out.is_dir():
        raise StorageError(f"cannot write {out}: it is there already, and is no folder")
    if not out.is_dir() and out.name.lower().endswith(FILES):
        raise InputError(f"{out}: what is written is a folder of files, and this names a file")
    for name in files:
        if read is not None and _identity(out / name) in _lineage(read):
            raise InputError(f"{out / name} is what is read: nothing is written there")
        if not (begun and (out / begun).exists()):
            demand_new(out / name, settings, force)


def demand_not_kept(out: Path, settings: Settings) -> None:
    """Raise `InputError` for what diffgraph keeps, what ships with it, and every base.

    Whatever it is called: through links, hard links, `..`, or in other letters on a disk that does
    not tell them apart.
    """
    demand_local(out)
    lineage = _lineage(out)
    real = Path(os.path.realpath(out))
    found = _identity(out)
    is_linked = found is not None and out.is_file() and out.stat().st_nlink > 1
    for what, place in _kept(settings):
        # what is not there yet has no identity, and still a name
        within = _identity(place) in lineage or real.is_relative_to(os.path.realpath(place))
        if within or (is_linked and any(_identity(file) == found for file in _files(place))):
            raise InputError(f"{out} is part of {what} ({place}): nothing is written there")


def _kept(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield what is never written over, there or not yet: a name for it, and its place."""
    places = [(f"{name}, which diffgraph keeps", settings.home / name) for name in KEPT]
    places.append(("what ships with diffgraph", Path(__file__).parent))
    for family, place in settings.bases.items():
        base = Path(place).expanduser()
        described = base.with_suffix("") if base.is_file() else base
        places += [(f"the base of {family}", path) for path in {base, described}]
        # a folder of a hub's cache is made of links: what they lead to is the base, too
        places += [(f"the base of {family}", file) for file in _files(described)]
    from huggingface_hub.constants import HF_HUB_CACHE

    places.append(("the cache of hubs' models", Path(HF_HUB_CACHE)))
    yield from places


def _files(place: Path) -> Iterator[Path]:
    return (path for path in (place, *place.rglob("*")) if path.is_file())


def _lineage(path: Path) -> set[Identity | None]:
    """Return what is there of a path and of all folders that it lies in."""
    real = Path(os.path.realpath(path))
    return {_identity(part) for part in (real, *real.parents)} - {None}


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
