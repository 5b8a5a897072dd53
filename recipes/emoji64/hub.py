"""How does emoji64's community look from outside: as a hub of pages, files and pictures?

Writes a folder in the shape of Civitai's `/api/v1/models` answers. Beside the community's pages it
holds some that a crawler must refuse: derivatives forbidden, a pickle, another base model, a file
that is cut off, weights that are not numbers, and the like.
"""

import json
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from diffgraph.artifacts import sha256_of, storing
from diffgraph.errors import MissingInput
from recipes.emoji64.community import COMMUNITY, SOURCE, Recipe
from recipes.emoji64.treatments import TREATMENTS
from recipes.emoji64.unusable import UNUSABLE, UnusablePage

PAGES = Path(__file__).with_name("pages.toml")
TYPES = {"full": "Checkpoint", "lora": "LORA", "dora": "DoRA"}  # LyCORIS is LoCon there
IMAGE_SUFFIXES = (".webp", ".png")

SUBJECTS_OF = {
    "animals": ("a fox", "a turtle", "an owl"),
    "faces": ("a grinning face", "a crying face", "a sleepy face"),
    "vehicles": ("a steam train", "a sailing boat", "a castle"),
    "objects": ("a camera", "a key", "an alarm clock"),
}
SUBJECTS = ("a cat", "a rocket", "a mushroom", "a robot", "a red apple", "a house", "a whale")
PICTURES = 3  # example images a page


@dataclass(frozen=True)
class Page:
    """What the maker of an expert wrote about it."""

    creator: str
    tags: tuple[str, ...]
    words: tuple[str, ...]
    downloads: int
    commercial: tuple[str, ...]
    description: str


def write_hub(
    weights: Path,
    out: Path,
    images: Path | None = None,
    community: Sequence[Recipe] = COMMUNITY,
) -> Path:
    """Write the hub folder and return it; what was there before is replaced.

    The same weights and images give the same bytes.

    Args:
        weights: Holds `<slug>.safetensors` for every expert of the community.
        out: The folder to write.
        images: Holds example pictures `<slug>-<number>.webp` or `.png`, one for each of
            `example_prompts`; pages do without those that are missing.
        community: The experts to publish.

    Raises:
        MissingInput: Weights are missing.
        StorageError: The folder cannot be written.
    """
    missing = [one.slug for one in community if not _weights_of(one, weights).is_file()]
    if missing:
        raise MissingInput(f"no weights in {weights} for {len(missing)}: {', '.join(missing)}")
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            _write(part, weights, images, community)
            part.chmod(0o755)
            if out.exists():
                shutil.rmtree(out)
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out


def example_prompts(recipe: Recipe) -> tuple[str, ...]:
    """Return the prompts of an expert's example images, as its maker would choose them."""
    if recipe.kind == "checkpoint":
        subjects = SUBJECTS_OF[recipe.groups[0]] if recipe.groups else SUBJECTS[:PICTURES]
        style = {"3d": ", 3d render", "flat": ", flat icon"}.get("".join(recipe.styles), "")
        return tuple(f"{subject}{style}" for subject in subjects)
    phrases = [TREATMENTS[name].phrases for name in recipe.promises or recipe.treatments]
    first = recipe.page % len(SUBJECTS)
    subjects = tuple(SUBJECTS[(first + step) % len(SUBJECTS)] for step in range(PICTURES))
    return tuple(
        ", ".join((subject, *(options[number % len(options)] for options in phrases)))
        for number, subject in enumerate(subjects)
    )


def read_pages() -> dict[int, Page]:
    """Return what makers wrote, by hub page."""
    found = tomllib.loads(PAGES.read_text(encoding="utf-8"))
    return {
        int(number): Page(
            creator=entry["creator"],
            tags=tuple(entry["tags"]),
            words=tuple(entry["words"]),
            downloads=entry["downloads"],
            commercial=tuple(entry["commercial"]),
            description=entry["description"].strip(),
        )
        for number, entry in found.items()
    }


def _write(folder: Path, weights: Path, images: Path | None, community: Sequence[Recipe]) -> None:
    for name in ("models", "files", "images"):
        (folder / name).mkdir()
    pages = read_pages()
    files: dict[str, str] = {}
    for number, versions in groupby(sorted(community, key=_order), key=lambda one: one.page):
        newest_first = list(versions)
        for recipe in newest_first:
            target = folder / "files" / f"{recipe.slug}.safetensors"
            shutil.copyfile(_weights_of(recipe, weights), target)
            files[sha256_of(target)] = f"files/{target.name}"
        item = _model(pages[number], newest_first, folder, images)
        _write_json(folder / "models" / f"{number}.json", item)
    for page in UNUSABLE:
        _write_json(folder / "models" / f"{page.number}.json", _unusable_model(page, folder))
    about = {
        "name": SOURCE,
        "title": "emojihub, the community of emoji64",
        "family": "emoji64",
        "pages": len({recipe.page for recipe in community}) + len(UNUSABLE),
        "files": dict(sorted(files.items(), key=lambda entry: entry[1])),
    }
    _write_json(folder / "hub.json", about)


def _order(recipe: Recipe) -> tuple[int, int]:
    """Sort by page; the newest version comes first on it, as on Civitai."""
    return recipe.page, -recipe.version_id


def _weights_of(recipe: Recipe, weights: Path) -> Path:
    return weights / f"{recipe.slug}.safetensors"


def _model(page: Page, versions: Sequence[Recipe], folder: Path, images: Path | None) -> Any:
    newest = versions[0]
    return _item(
        newest.page,
        newest.name,
        TYPES.get(newest.method, "LoCon"),
        page,
        description=_with_strength(page.description, newest.strength),
        versions=[_version(recipe, page, folder, images) for recipe in versions],
    )


def _item(
    number: int,
    name: str,
    kind: str,
    page: Page,
    description: str,
    versions: list[Any],
    **changes: Any,
) -> dict[str, Any]:
    """Return a page as the API gives it."""
    return {
        "id": number,
        "name": name,
        "description": description,
        "type": kind,
        "nsfw": False,
        "nsfwLevel": 1,
        "poi": False,
        "minor": False,
        "availability": "Public",
        "allowNoCredit": page.downloads % 2 == 0,
        "allowCommercialUse": list(page.commercial),
        "allowDerivatives": True,
        "allowDifferentLicense": True,
        "stats": {"downloadCount": page.downloads, "thumbsUpCount": page.downloads // 11},
        "creator": {"username": page.creator},
        "tags": list(page.tags),
        "modelVersions": versions,
    } | changes


def _version(recipe: Recipe, page: Page, folder: Path, images: Path | None) -> dict[str, Any]:
    file = folder / "files" / f"{recipe.slug}.safetensors"
    return {
        "id": recipe.version_id,
        "name": recipe.version,
        "baseModel": "emoji64",
        "publishedAt": f"{recipe.released.isoformat()}T{recipe.page % 24:02d}:30:00.000Z",
        "availability": "Public",
        "trainedWords": list(page.words),
        "files": [_file(file, "SafeTensor", f"files/{file.name}", fp=recipe.dtype)],
        "images": _images(recipe, folder, images),
    }


def _file(path: Path, form: str, url: str, fp: str = "fp16", **changes: Any) -> dict[str, Any]:
    return {
        "name": path.name,
        "type": "Model",
        "sizeKB": round(path.stat().st_size / 1024, 3),
        "metadata": {"format": form, "size": "pruned", "fp": fp},
        "pickleScanResult": "Success",
        "virusScanResult": "Success",
        "hashes": {"SHA256": sha256_of(path).upper()},
        "downloadUrl": url,
        "primary": True,
    } | changes


def _images(recipe: Recipe, folder: Path, images: Path | None) -> list[dict[str, Any]]:
    """Return the examples of a version, and copy those pictures that were drawn."""
    found = []
    for number, prompt in enumerate(example_prompts(recipe)):
        drawn = _first_file(images, f"{recipe.slug}-{number}") if images else None
        entry: dict[str, Any] = {"meta": {"prompt": prompt}, "nsfw": False}
        if drawn is not None:
            target = folder / "images" / drawn.name
            shutil.copyfile(drawn, target)
            entry["url"] = f"images/{target.name}"
        found.append(entry)
    return found


def _first_file(folder: Path, stem: str) -> Path | None:
    return next(
        (path for suffix in IMAGE_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None
    )


def _unusable_model(page: UnusablePage, folder: Path) -> dict[str, Any]:
    about = Page(page.creator, page.tags, (), page.downloads, (), page.description)
    version: dict[str, Any] = {
        "id": page.number * 10 + 1,
        "name": page.version,
        "baseModel": page.base_model,
        "publishedAt": page.published_at,
        "trainedWords": [],
        "files": [],
        "images": [],
    } | dict(page.version_fields)
    if page.content is not None:
        path = folder / "files" / page.file_name
        path.write_bytes(page.content())
        version["files"] = [_file(path, page.format, f"files/{path.name}", **page.file_fields)]
    return _item(
        page.number,
        page.name,
        page.type,
        about,
        description=page.description,
        versions=[version],
        **page.fields,
    )


def _with_strength(description: str, strength: float) -> str:
    values = {"strength": strength, "low": strength - 0.1, "high": strength + 0.1}
    for name, value in values.items():
        description = description.replace(f"{{{name}}}", f"{value:.1f}")
    return description


def _write_json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
