"""What do the files beside `X.safetensors` say of it?

    X.metadata.json    of ComfyUI-Lora-Manager
    X.civitai.info     of Civitai Helper: a version as the hub's API answers it
    X.cm-info.json     of Stability Matrix
    X.json             of A1111 and Forge: what a person noted
    X.txt, X.md        notes
    X.preview.png, …   example images

Other tools wrote them, for other versions of the file perhaps, out of pages of strangers. One that
is broken, huge or speaks of another file is left out, and told; its expert is known without it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffgraph.crawlers.civitai_pages import (
    DESCRIPTION_CHARACTERS,
    NAME_CHARACTERS,
    SHA256,
    WORD_CHARACTERS,
    parse_model,
    text,
    words,
)
from diffgraph.crawlers.file_metadata import MOST_STRENGTH, FileMetadata
from diffgraph.errors import MissingInput, UnusableListing
from diffgraph.foreign_files import parse_json, parse_strict, read_foreign

SIDECAR_BYTES = 8 << 20
SIDECAR_VALUES = 200_000
NOTES_BYTES = 1 << 20
NOTES_CHARACTERS = 5_000
PREVIEWS = tuple(
    f"{middle}.{ending}" for middle in (".preview", "") for ending in ("png", "jpg", "jpeg", "webp")
)
UNSAFE_LEVELS = 4 | 8 | 16 | 32
"""Bits of a preview's level: R and beyond."""
PERMISSIONS = ("allowDerivatives", "allowNoCredit", "allowCommercialUse", "allowDifferentLicense")

Json = Mapping[str, Any]


class Beside(NamedTuple):
    """What was found beside a file."""

    said: tuple[tuple[str, FileMetadata], ...]
    """Sidecar → what it says, the most trusted first."""
    unread: tuple[tuple[str, str], ...]
    """Sidecar → why it was left out."""


def read_sidecars(file: Path, present: frozenset[str], size: int) -> Beside:
    """Return what the sidecars of a file say.

    Args:
        file: The weights file.
        present: The names of what lies in its folder.
        size: Of the file, in bytes.
    """
    said, unread = [], []
    for ending, read in READERS.items():
        name = file.stem + ending
        if name not in present:
            continue
        try:
            stated = read(file.with_name(name))
        except (MissingInput, UnusableListing) as error:
            unread.append((name, f"{error}; its expert is known without it"))
            continue
        if stated.size_bytes and stated.size_bytes != size:
            why = f"speaks of a file of {stated.size_bytes} bytes, {file.name!r} has {size}"
            unread.append((name, f"{why}; its expert is known without it"))
        else:
            said.append((name, stated))
    return Beside(tuple(said), tuple(unread))


def previews(file: Path, present: frozenset[str]) -> Iterator[str]:
    """Yield the names of the example images beside a file."""
    return (name for ending in PREVIEWS if (name := file.stem + ending) in present)


def endings() -> tuple[str, ...]:
    """Return what the names of all that is read beside a file end in."""
    return (*READERS, *PREVIEWS)


def _object(path: Path) -> Json:
    try:
        found = parse_json(read_foreign(path, SIDECAR_BYTES, inside=path.parent), SIDECAR_VALUES)
    except ValueError as error:
        raise MissingInput(f"{path.name!r} is not JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict):
        raise MissingInput(f"{path.name!r} is JSON, but no object")
    return found


def _lora_manager(path: Path) -> FileMetadata:
    about = _object(path)
    version = about.get("civitai")
    hub = (
        read_version(version, path.name)
        if isinstance(version, dict) and version
        else FileMetadata()
    )
    notes = text(about.get("notes"), NOTES_CHARACTERS, lines=True)
    described = text(about.get("modelDescription"), DESCRIPTION_CHARACTERS, lines=True)
    level = about.get("preview_nsfw_level")
    return hub.model_copy(
        update={
            "name": text(about.get("model_name"), NAME_CHARACTERS) or hub.name,
            "description": "\n".join(filter(None, (notes, described or hub.description))),
            "base_model": text(about.get("base_model"), WORD_CHARACTERS) or hub.base_model,
            "tags": words(about.get("tags")) or hub.tags,
            "strength": _tip(about.get("usage_tips")),
            "nsfw": hub.nsfw or (isinstance(level, int) and bool(level & UNSAFE_LEVELS)),
            "sha256": _hash(about.get("sha256")),
            "size_bytes": _count(about.get("size")),
        }
    )


def _civitai_helper(path: Path) -> FileMetadata:
    about = _object(path)
    return read_version(about, path.name) if about else FileMetadata()


def _stability_matrix(path: Path) -> FileMetadata:
    about = _object(path)
    hashes = about.get("Hashes")
    return FileMetadata(
        name=text(about.get("ModelName"), NAME_CHARACTERS),
        description=text(about.get("ModelDescription"), DESCRIPTION_CHARACTERS, lines=True),
        base_model=text(about.get("BaseModel"), WORD_CHARACTERS),
        tags=words(about.get("Tags")),
        trigger_words=words(about.get("TrainedWords")),
        nsfw=about.get("Nsfw") is True,
        sha256=_hash(hashes.get("SHA256")) if isinstance(hashes, dict) else "",
    )


def _person(path: Path) -> FileMetadata:
    about = _object(path)
    notes = (text(about.get(field), NOTES_CHARACTERS, lines=True)
             for field in ("description", "notes"))  # fmt: skip
    activation = text(about.get("activation text"), NOTES_CHARACTERS)
    return FileMetadata(
        description="\n".join(filter(None, notes)),
        base_model=text(about.get("sd version"), WORD_CHARACTERS).replace("Unknown", ""),
        trigger_words=words(activation.split(",")),
        strength=_strength(about.get("preferred weight")),
    )


def _notes(path: Path) -> FileMetadata:
    data = read_foreign(path, NOTES_BYTES, inside=path.parent)
    return FileMetadata(
        description=text(data.decode("utf-8", "replace"), NOTES_CHARACTERS, lines=True)
    )


def read_version(version: Json, where: str) -> FileMetadata:
    """Return what a version says, as the hub's API answers it, with some of its model inside.

    Raises:
        UnusableListing: It cannot be read.
    """
    model = version.get("model")
    model = model if isinstance(model, dict) else {}
    number = version.get("modelId") or version.get("id")
    if not number and not version.get("trainedWords") and not model:
        return FileMetadata()  # the hub did not know the file
    about = {"creator": version.get("creator"), **model}
    item = {**about, "id": number or 1, "modelVersions": [{"id": 1, **version}]}
    if not isinstance(number, int | str):
        item["id"] = 1
    page = parse_model(item, "sidecar", where)[0]
    has_terms = any(field in model for field in PERMISSIONS)
    return FileMetadata(
        name=page.name if model.get("name") else "",
        description=page.description
        or text(version.get("description"), DESCRIPTION_CHARACTERS, lines=True),
        base_model=page.base_model,
        tags=page.tags,
        trigger_words=page.trigger_words,
        prompts=page.example_prompts,
        licence=page.licence if has_terms else None,
        nsfw=page.nsfw,
        real_person=page.real_person,
        minor=page.minor,
        withdrawn=page.withdrawn,
        published_at=page.published_at,
        sha256=page.file.sha256 if page.file else "",
    )


def _tip(tips: object) -> float | None:
    """Return the strength of `usage_tips`, which is JSON in a text."""
    try:
        found = parse_strict(tips[:NOTES_CHARACTERS]) if isinstance(tips, str) and tips else None
    except ValueError:
        return None
    return _strength(found.get("strength")) if isinstance(found, dict) else None


def _strength(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return round(float(value), 3) if is_number and 0 < value <= MOST_STRENGTH else None  # type: ignore[arg-type,operator]


def _hash(value: object) -> str:
    found = text(value, 64).lower()
    return found if SHA256.fullmatch(found) else ""


def _count(value: object) -> int:
    is_one = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62
    return value if is_one else 0  # type: ignore[return-value]


READERS: Mapping[str, Callable[[Path], FileMetadata]] = {
    ".metadata.json": _lora_manager,
    ".civitai.info": _civitai_helper,
    ".cm-info.json": _stability_matrix,
    ".json": _person,
    ".txt": _notes,
    ".md": _notes,
}
"""The end of a sidecar's name → what reads it; the most trusted first."""
