"""Where does the art that emoji64 learns from come from, and how is it read?

Five openly licensed emoji sets (NOTICE names their licences) are fetched by name with the ordinary
npm client, brought to 56x56 pixels within 64x64 RGBA and packed into one compact file: about 8,000
images of about 1,640 subjects. Flags and skin-tone variants are left out. The images do not ship;
only what is trained from them does.
"""

import argparse
import io
import json
import logging
import subprocess
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffgraph.artifacts import new_file, write_text
from diffgraph.errors import DamagedFile, MissingInput, ServiceUnavailable

log = logging.getLogger(__name__)

RESOLUTION = 64
SUBJECT_PIXELS = 56  # a margin of 4 px: frames, outlines and backgrounds need room to be seen
NPM_TIMEOUT_SECONDS = 600
STYLES = ("noto", "twemoji", "3d", "flat", "high contrast")
PACKAGES = {
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "@lobehub/fluent-emoji-flat@1.1.0",
    "high contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "names": "emojibase-data@17.0.0",
}
FOLDERS = {
    "noto": "package/img/google/64/",
    "twemoji": "package/img/twitter/64/",
    "3d": "package/assets/",
    "flat": "package/assets/",
}

GROUPS = (
    "animals", "faces", "people", "nature", "food", "vehicles", "places", "activities", "objects",
    "clothing", "symbols",
)  # fmt: skip
GROUP_OF_PREFIX = {  # the first match of an emojibase subgroup's name decides
    "face-": "faces",
    "cat-face": "faces",
    "monkey-face": "faces",
    "heart": "symbols",
    "emotion": "symbols",
    "hand": "people",
    "body": "people",
    "person-symbol": "symbols",
    "person": "people",
    "family": "people",
    "animal-": "animals",
    "plant-": "nature",
    "sky-weather": "nature",
    "place-geographic": "places",
    "food-": "food",
    "drink": "food",
    "dishware": "food",
    "place-": "places",
    "transport-sign": "symbols",
    "transport-": "vehicles",
    "hotel": "objects",
    "time": "objects",
    "event": "activities",
    "award": "activities",
    "sport": "activities",
    "game": "activities",
    "arts-": "activities",
    "musical-instrument": "activities",
    "clothing": "clothing",
    "warning": "symbols",
    "arrow": "symbols",
    "religion": "symbols",
    "zodiac": "symbols",
    "av-symbol": "symbols",
    "gender": "symbols",
    "math": "symbols",
    "punctuation": "symbols",
    "currency": "symbols",
    "other-symbol": "symbols",
    "keycap": "symbols",
    "alphanum": "symbols",
    "geometric": "symbols",
}
LEFT_OUT = ("component", "flags")


@dataclass(frozen=True)
class Subject:
    """What an image shows; `id` is its code point in hex, `name` and `tags` are lower case."""

    id: str
    name: str
    tags: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Art:
    """All images, with what they show and how they are drawn."""

    images: Tensor  # (n, 64, 64, 4), uint8, RGBA with straight alpha
    subject: Tensor  # (n,), long, index into `subjects`
    style: Tensor  # (n,), long, index into `STYLES`
    subjects: tuple[Subject, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def where(
        self, groups: Collection[str] | None = None, styles: Collection[str] | None = None
    ) -> Tensor:
        """Return the indices of the images of these subject groups and styles (None: of all)."""
        kept = torch.ones(len(self.images), dtype=torch.bool)
        if groups is not None:
            of_group = torch.tensor([subject.group in groups for subject in self.subjects])
            kept &= of_group[self.subject]
        if styles is not None:
            kept &= torch.isin(self.style, torch.tensor([STYLES.index(name) for name in styles]))
        return kept.nonzero().flatten()

    def select(self, indices: Tensor) -> "Art":
        """Return these images alone; the subjects keep their numbers."""
        return Art(self.images[indices], self.subject[indices], self.style[indices], self.subjects)

    def planes(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return colour (n, 3, 64, 64) and opacity (n, 1, 64, 64), both in [0, 1]."""
        planes = self.images[indices.to(self.images.device)].permute(0, 3, 1, 2).float() / 255
        return planes[:, :3], planes[:, 3:]


def load_art(cache: Path | str) -> Art:
    """Read the packed art from its folder.

    Raises:
        MissingInput: the folder does not hold the packed art.
        DamagedFile: an image cannot be read or is not 64x64.
    """
    folder = Path(cache)
    packed, names = folder / "art.npz", folder / "subjects.json"
    for path in (packed, names):
        if not path.is_file():
            raise MissingInput(
                f"{path} is missing: run `python -m recipes.emoji64.art --cache {folder}`"
            )
    with np.load(packed) as arrays:
        blob, ends = arrays["blob"].tobytes(), arrays["ends"].tolist()
        subject, style = arrays["subject"].astype(np.int64), arrays["style"].astype(np.int64)
    starts = [0, *ends[:-1]]
    images = np.stack(
        [_unpacked(blob[start:end], packed) for start, end in zip(starts, ends, strict=True)]
    )
    subjects = tuple(
        Subject(row["id"], row["name"], tuple(row["tags"]), row["group"])
        for row in json.loads(names.read_text(encoding="utf-8"))
    )
    return Art(
        torch.from_numpy(images), torch.from_numpy(subject), torch.from_numpy(style), subjects
    )


def save_art(art: Art, cache: Path | str) -> Path:
    """Pack the art, as lossless WebP, into `art.npz` and `subjects.json`; return the first."""
    blobs = [_packed(image) for image in art.images.numpy()]
    folder = Path(cache)
    with new_file(folder / "art.npz") as part, part.open("wb") as file:
        np.savez(
            file,
            blob=np.frombuffer(b"".join(blobs), np.uint8),
            ends=np.cumsum([len(blob) for blob in blobs]),
            subject=art.subject.numpy().astype(np.int16),
            style=art.style.numpy().astype(np.int8),
        )
    rows = [vars(subject) for subject in art.subjects]
    write_text(folder / "subjects.json", json.dumps(rows, indent=0, ensure_ascii=False))
    return folder / "art.npz"


def pack_art(cache: Path) -> Path:
    """Fetch and pack the art, or find it packed; return the packed file."""
    path = cache / "art.npz"
    if not (path.is_file() and (cache / "subjects.json").is_file()):
        art = make_art(cache)
        path = save_art(art, cache)
        log.info("%d images in %s, %.1f MB", len(art), path, path.stat().st_size / 1e6)
    return path


def fetch(cache: Path) -> dict[str, Path]:
    """Download the packages that the cache lacks with the npm client; return each one's tarball.

    Raises:
        MissingInput: there is no npm client.
        ServiceUnavailable: npm could not fetch a package.
    """
    folder = cache / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    tarballs = {}
    for key, package in PACKAGES.items():
        path = folder / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
        if not path.is_file():
            _npm_pack(package, folder)
        tarballs[key] = path
    return tarballs


def make_art(cache: Path) -> Art:
    """Fetch and read all five sets and return them as one, ordered by style, then by code point."""
    tarballs = fetch(cache)
    subjects = read_subjects(tarballs["names"])
    number = {subject.id: index for index, subject in enumerate(subjects)}
    images: list[np.ndarray[Any, Any]] = []
    places: list[tuple[int, int]] = []
    for index, style in enumerate(STYLES):
        drawn = dict(_drawings(style, tarballs[style], number))
        for code in sorted(drawn):
            images.append(drawn[code])
            places.append((number[code], index))
        log.info("%s: %d images", style, len(drawn))
    subject, style_of = torch.tensor(places).unbind(1)
    return Art(torch.from_numpy(np.stack(images)), subject, style_of, subjects)


def read_subjects(tarball: Path) -> tuple[Subject, ...]:
    """Return the subjects named in emojibase's English data, flags and components left out."""
    with tarfile.open(tarball) as archive:
        rows = json.loads(_member(archive, "package/en/data.json"))
        names = json.loads(_member(archive, "package/meta/groups.json"))
    subjects = []
    for row in rows:
        if "group" not in row or names["groups"][str(row["group"])] in LEFT_OUT:
            continue
        group = _group(names["subgroups"][str(row["subgroup"])])
        tags = tuple(tag.lower() for tag in row.get("tags", ()))
        subjects.append(Subject(_plain_code(row["hexcode"]), row["label"].lower(), tags, group))
    return tuple(sorted(subjects, key=lambda subject: subject.id))


def resized(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return an image as (64, 64, 4) uint8.

    It is scaled with premultiplied alpha, so that edges keep their colour. The lowest bit
    repeats the highest one: invisible, and a seventh of the packed size.
    """
    size = (SUBJECT_PIXELS, SUBJECT_PIXELS)
    small = (
        image.convert("RGBA").convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    )
    margin = (RESOLUTION - SUBJECT_PIXELS) // 2
    canvas = Image.new("RGBA", (RESOLUTION, RESOLUTION))
    canvas.paste(small, (margin, margin))
    pixels = np.array(canvas)
    pixels[pixels[..., 3] == 0] = 0
    return (pixels & 0xFE) | (pixels >> 7)


def _drawings(
    style: str, tarball: Path, wanted: Collection[str]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if style == "high contrast":
        yield from _icons(tarball, wanted)
        return
    reader: Callable[[bytes], Image.Image] = _rendered if style == "flat" else _opened
    with tarfile.open(tarball) as archive:
        for member in archive:
            if not member.isfile() or not member.name.startswith(FOLDERS[style]):
                continue
            code = _plain_code(Path(member.name).stem)
            if code in wanted and (file := archive.extractfile(member)) is not None:
                yield code, resized(reader(file.read()))


def _icons(tarball: Path, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    with tarfile.open(tarball) as archive:
        icons = json.loads(_member(archive, "package/icons.json"))
        characters = json.loads(_member(archive, "package/chars.json"))
    for code, name in characters.items():
        icon = icons["icons"].get(name)
        if icon is None or _plain_code(code) not in wanted:
            continue
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        body = icon["body"].replace("currentColor", "#000")
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
        yield _plain_code(code), resized(_rendered(svg.encode()))


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _rendered(svg: bytes) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise MissingInput("resvg-py draws the SVG art: install diffgraph[recipe]") from error

    png = resvg_py.svg_to_bytes(
        svg_string=svg.decode(), width=2 * RESOLUTION, height=2 * RESOLUTION
    )
    return Image.open(io.BytesIO(bytes(png)))


def _plain_code(code: str) -> str:
    """Return code points without variation selectors and leading zeros, which sets may omit."""
    parts = [part.lstrip("0") for part in code.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def _group(subgroup: str) -> str:
    return next(
        (group for prefix, group in GROUP_OF_PREFIX.items() if subgroup.startswith(prefix)),
        "objects",
    )


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise DamagedFile(f"{archive.name!s}: {name} is not a file")
    return file.read()


def _packed(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image, "RGBA").save(
        buffer, "WEBP", lossless=True, quality=75, method=4, exact=False
    )
    return buffer.getvalue()


def _unpacked(data: bytes, source: Path) -> np.ndarray[Any, Any]:
    try:
        image = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise DamagedFile(f"{source}: an image cannot be read: {error}") from error
    if image.shape != (RESOLUTION, RESOLUTION, 4):
        raise DamagedFile(f"{source}: an image is {image.shape}, expected (64, 64, 4)")
    return image


def _npm_pack(package: str, folder: Path) -> None:
    log.info("fetching %s", package)
    try:
        subprocess.run(
            ["npm", "pack", package, "--silent"], cwd=folder, check=True, capture_output=True,
            timeout=NPM_TIMEOUT_SECONDS,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise MissingInput("npm is not installed: it fetches the emoji sets") from error
    except subprocess.SubprocessError as error:
        raise ServiceUnavailable(f"npm could not fetch {package}: {error!s}") from error


def main() -> None:
    """Fetch and pack the art into the cache folder."""
    parser = argparse.ArgumentParser(description="Fetch the emoji sets and pack them for training.")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"))
    cache = parser.parse_args().cache
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pack_art(cache)


if __name__ == "__main__":
    main()
