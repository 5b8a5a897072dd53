"""Reads Civitai's pages, which are untrusted.

Reads items of `GET /api/v1/models`, one per expert, into listings, one per version; see
https://developer.civitai.com/docs/api/public-rest. Whatever is missing or has the wrong type
becomes the empty value; only a page without a usable id or version is refused. Where doubt could
hurt a maker, the strict reading wins: a permission that is not plainly given is not given.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.errors import UnusableListing
from diffgraph.experts.expert import (
    ExpertRef,
    Licence,
    ListedFile,
    ListedImage,
    Listing,
)

ID = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")

# Control, bidirectional and lone surrogate characters: they hide text, or break writing it.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

NAME_CHARACTERS = 200
WORD_CHARACTERS = 120
PROMPT_CHARACTERS = 2_000
URL_CHARACTERS = 2_000
DESCRIPTION_CHARACTERS = 50_000
LIST_ITEMS = 1000
FILES = 100
IMAGES = 20
VERSIONS = 500
NOT_FOR_DOWNLOAD = {"Generation", "InternalGeneration"}
OTHER_SHAPES = {"Inpainting", "Pix2Pix", "Refiner"}
UNMARKED = {"", "false", "no", "0", "none", "null", "soft", "safe"}
UNREADABLE_LEVEL = 32
SAFE_LEVELS = 3  # bits
SAFEST_LEVEL = 1
PUBLIC = {
    "mode": {"", "collectiononly"},
    "status": {"", "published"},
    "availability": {"", "public", "earlyaccess", "unsearchable"},
}
"""What these fields say of a public page."""

Page = Mapping[str, Any]


def parse_model(item: object, source: str, page_url: str = "") -> tuple[Listing, ...]:
    """Return a listing for every version on a page, in the page's order.

    Args:
        item: The decoded JSON of one model.
        source: The hub's name, the first part of each reference.
        page_url: Where a person finds the page.

    Raises:
        UnusableListing: The page has no usable id, or no version with one.
    """
    if not isinstance(item, Mapping):
        raise UnusableListing(f"a page is a JSON object, this is {_kind(item)}")
    model = _identifier(item.get("id"))
    if model is None:
        raise UnusableListing(f"the page has no usable id: {_short(item.get('id'))}")
    versions = [
        (number, version)
        for version in _dicts(item.get("modelVersions"), VERSIONS)
        if (number := _identifier(version.get("id"))) is not None
    ]
    if not versions:
        raise UnusableListing(f"page {model} has no version with an id")
    name = text(item.get("name"), NAME_CHARACTERS) or f"unnamed {model}"
    shared = {
        "description": text(item.get("description"), DESCRIPTION_CHARACTERS, lines=True),
        "type": text(item.get("type"), WORD_CHARACTERS),
        "tags": words(_names(item.get("tags"))),
        "licence": _licence(item),
        "page_url": text(page_url, URL_CHARACTERS),
    }
    return tuple(
        Listing(
            ref=ExpertRef(source=source, model=model, version=number),
            name=_full_name(name, version),
            base_model=_base_model(version),
            trigger_words=words(version.get("trainedWords")),
            file=_file(version),
            images=_images(version),
            published_at=moment(version.get("publishedAt")),
            real_person=_is_marked("poi", item, version),
            minor=_is_marked("minor", item, version),
            nsfw=_is_marked("nsfw", item, version) or _is_unsafe(item) or _is_unsafe(version),
            withdrawn=_withdrawn(item) or _withdrawn(version),
            downloads=_downloads(version.get("stats") or item.get("stats")),
            rating=_rating(item.get("stats")),
            **shared,
        )
        for number, version in versions
    )


def read_page(item: object, source: str, page_url: str = "") -> Iterator[Listing | BrokenPage]:
    """Yield a listing for every version on a page, and a name for what cannot be read.

    Args:
        item: The decoded JSON of one model.
        source: The hub's name, the first part of each reference.
        page_url: Where a person finds the page.
    """
    number = _identifier(item.get("id")) if isinstance(item, Mapping) else None
    where = f"models/{number}" if number else page_url or "a page"
    try:
        yield from parse_model(item, source, page_url)
    except UnusableListing as error:
        yield BrokenPage(where=where, reason=str(error))
        return
    versions = item.get("modelVersions") if isinstance(item, Mapping) else None
    for place, version in enumerate(_entries(versions, VERSIONS + 1), 1):
        if not isinstance(version, Mapping):
            yield BrokenPage(where=where, reason=f"its version {place} is {_kind(version)}")
        elif _identifier(version.get("id")) is None:
            found = _short(version.get("id"))
            yield BrokenPage(where=where, reason=f"its version {place} has no usable id: {found}")
        elif place > VERSIONS:
            yield BrokenPage(where=where, reason=f"it has more than {VERSIONS} versions")
            return


def text(value: object, limit: int, lines: bool = False) -> str:
    """Return printable text of at most `limit` characters; "" for anything but a string."""
    if not isinstance(value, str):
        return ""
    kept = UNPRINTABLE.sub(" ", value[: 2 * limit])
    return kept[:limit].strip() if lines else " ".join(kept.split())[:limit]


def _base_model(version: Page) -> str:
    """Return the base, with the word for a variant whose weights have other shapes."""
    base, kind = (text(version.get(key), WORD_CHARACTERS) for key in ("baseModel", "baseModelType"))
    return f"{base} {kind}" if kind in OTHER_SHAPES and kind.lower() not in base.lower() else base


def _full_name(name: str, version: Page) -> str:
    """Return "Nightfall v2" for a page "Nightfall" and its version "v2"."""
    return f"{name} {text(version.get('name'), 60)}".strip()[:NAME_CHARACTERS]


def _identifier(value: object) -> str | None:
    """Return a hub's id as text; None if it could not be part of a reference."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        return str(value) if 0 <= value < 10**18 else None
    return value if ID.fullmatch(value) else None


def _licence(item: Page) -> Licence:
    creator = item.get("creator")
    name = creator.get("username") if isinstance(creator, Mapping) else creator
    return Licence(
        allow_derivatives=_permitted(item, "allowDerivatives"),
        allow_commercial_use=commercial_use(item.get("allowCommercialUse")),
        allow_different_licence=_permitted(item, "allowDifferentLicense"),
        credit_required=not _is_true(item.get("allowNoCredit", True)),
        creator=text(name, WORD_CHARACTERS),
    )


def _permitted(item: Page, field: str) -> bool:
    """Return whether a permission is given: absent means the hub's default, which is yes."""
    return field not in item or item[field] is True


def commercial_use(value: object) -> tuple[str, ...]:
    """Read the three shapes of different years: `"Sell"`, `"{Image,Rent}"`, `["Image", "Rent"]`."""
    if isinstance(value, str):
        value = value.strip().strip("{}").split(",")
    return tuple(word for word in words(value) if word.lower() != "none")


def _file(version: Page) -> ListedFile | None:
    """Return the version's main file, chosen as Civitai does; None if it offers none."""
    if text(version.get("availability"), WORD_CHARACTERS) == "EarlyAccess":
        return None
    if text(version.get("usageControl"), WORD_CHARACTERS) in NOT_FOR_DOWNLOAD:
        return None
    files = _dicts(version.get("files"), FILES)
    if not files:
        return None
    chosen = max(files, key=_preference)  # the first of several that are equally good
    hashes = chosen.get("hashes")
    sha256 = text(
        hashes.get("SHA256") if isinstance(hashes, Mapping) else "", WORD_CHARACTERS
    ).lower()
    name = text(chosen.get("name"), WORD_CHARACTERS).replace("\\", "/").rpartition("/")[2]
    return ListedFile(
        name=name.strip(". ") or "unnamed",
        url=text(chosen.get("downloadUrl"), URL_CHARACTERS),
        size_bytes=_bytes(chosen.get("sizeKB")),
        sha256=sha256 if SHA256.fullmatch(sha256) else "",
        format=_metadata(chosen, "format"),
        pickle_scan=text(chosen.get("pickleScanResult"), WORD_CHARACTERS),
        virus_scan=text(chosen.get("virusScanResult"), WORD_CHARACTERS),
    )


def _preference(file: Page) -> int:
    is_model = text(file.get("type"), WORD_CHARACTERS) in {"", "Model", "Pruned Model"}
    return (
        1000 * is_model
        + 100 * (_metadata(file, "format") == "SafeTensor")
        + 10 * (_metadata(file, "size") == "pruned")
        + (_metadata(file, "fp") == "fp16")
    )


def _metadata(file: Page, field: str) -> str:
    metadata = file.get("metadata")
    return text(metadata.get(field), WORD_CHARACTERS) if isinstance(metadata, Mapping) else ""


def _images(version: Page) -> tuple[ListedImage, ...]:
    found = []
    for image in _dicts(version.get("images"), IMAGES):
        meta = image.get("meta")
        prompt = meta.get("prompt") if isinstance(meta, Mapping) else ""
        url = text(image.get("url"), URL_CHARACTERS)
        prompt = text(prompt, PROMPT_CHARACTERS)
        if (url or prompt) and not _is_explicit(image):
            found.append(ListedImage(url=url, prompt=prompt))
    return tuple(found)


def _is_explicit(image: Page) -> bool:
    """Read the marks of different years: a flag, a word, bits (PG 1, PG-13 2, then worse)."""
    level = _level(image)
    return _is_marked("nsfw", image) if level is None else level & ~SAFE_LEVELS != 0


def _is_unsafe(page: Page) -> bool:
    """Return whether there are bits for all that its images show, and none of them is PG."""
    level = _level(page)
    return level is not None and level & ~SAFE_LEVELS != 0 and not level & SAFEST_LEVEL


def _level(page: Page) -> int | None:
    """Return the bits of what is shown; one that we cannot read is taken at its worst."""
    level = page.get("nsfwLevel")
    if level is None or text(level, 20).lower() in {"none", "soft"}:
        return None
    try:
        return int(level) if int(level) >= 0 else UNREADABLE_LEVEL
    except (TypeError, ValueError, OverflowError):
        return UNREADABLE_LEVEL if level else None


def _is_marked(field: str, *pages: Page) -> bool:
    """Return whether a flag is set anywhere: whatever does not plainly say no says yes."""
    return any(
        text(value, 20).lower() not in UNMARKED if isinstance(value, str) else bool(value)
        for value in (page.get(field) for page in pages)
    )


def _withdrawn(page: Page) -> str:
    """Return the hub's word for why a page or a version is no longer for the public; "" if it is.

    Words that are new to us are taken at their worst.
    """
    for field, usual in PUBLIC.items():
        value = page.get(field)
        word = text(value, 40) or (text(repr(value), 40) if value not in ("", None) else "")
        if word.lower() not in usual:
            return word
    gone = [field for field in ("deletedAt", "tosViolation") if page.get(field)]
    return gone[0] if gone else ""


def moment(value: object) -> datetime | None:
    """Return an ISO date in UTC; None if it is none."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _number(value: object) -> float:
    """Return a finite, positive number, or 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value < 1e15 and math.isfinite(value) else 0.0


def _bytes(kilobytes: object) -> int:
    return round(_number(kilobytes) * 1024)


def _downloads(stats: object) -> int:
    return int(_number(stats.get("downloadCount"))) if isinstance(stats, Mapping) else 0


def _rating(stats: object) -> float | None:
    """Return 0 to 5 from the stars of old pages or the thumbs of newer ones; None if unrated."""
    if not isinstance(stats, Mapping):
        return None
    if _number(stats.get("ratingCount")) and (stars := _number(stats.get("rating"))):
        return min(stars, 5.0)
    up, down = _number(stats.get("thumbsUpCount")), _number(stats.get("thumbsDownCount"))
    return 5.0 * up / (up + down) if up + down else None


def _dicts(value: object, limit: int) -> list[Page]:
    """Return the objects of a list, without what else may be in it."""
    return [entry for entry in _entries(value, limit) if isinstance(entry, Mapping)]


def _entries(value: object, limit: int) -> Sequence[object]:
    return value[:limit] if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _names(value: object) -> list[object]:
    """Return tags as the list they are in one version of the API, or the names of another's."""
    if isinstance(value, str):
        return list(value[:DESCRIPTION_CHARACTERS].split(","))
    if not isinstance(value, Sequence):
        return []
    return [tag.get("name") if isinstance(tag, Mapping) else tag for tag in value[:LIST_ITEMS]]


def words(value: object) -> tuple[str, ...]:
    """Return the texts of a list, printable, without repeats."""
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        return ()
    found = (text(word, WORD_CHARACTERS) for word in list(value)[:LIST_ITEMS])
    return tuple(dict.fromkeys(word for word in found if word))


def _is_true(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _short(value: object) -> str:
    return text(repr(value)[:200], 60) or "nothing"
