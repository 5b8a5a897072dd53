"""Pages by strangers: each is read, or counted and named; none ends a run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffgraph.crawlers.civitai_pages import DESCRIPTION_CHARACTERS, IMAGES, LIST_ITEMS, parse_model
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.crawlers.discovery import examine
from diffgraph.crawlers.folder import PAGE_BYTES, FolderCrawler
from diffgraph.errors import DiffgraphError, UnusableListing
from diffgraph.experts.expert import Listing
from diffgraph.families import get_family


def page(**changes: Any) -> dict[str, Any]:
    """Return a page that is in order, but for `changes`."""
    return {
        "id": 7,
        "name": "Nightfall",
        "description": "<p>Makes it night.</p>",
        "type": "LORA",
        "tags": ["night", "style"],
        "nsfw": False,
        "allowDerivatives": True,
        "modelVersions": [version()],
    } | changes


def version(**changes: Any) -> dict[str, Any]:
    return {
        "id": 71,
        "name": "v1",
        "baseModel": "emoji64",
        "trainedWords": ["night"],
        "publishedAt": "2023-02-02T10:00:00.000Z",
        "files": [file()],
        "images": [{"url": "images/a.png", "meta": {"prompt": "a cat, night"}}],
    } | changes


def file(**changes: Any) -> dict[str, Any]:
    return {
        "name": "night.safetensors",
        "sizeKB": 12.5,
        "type": "Model",
        "metadata": {"format": "SafeTensor"},
        "pickleScanResult": "Success",
        "virusScanResult": "Success",
        "hashes": {"SHA256": "AB" * 32},
        "downloadUrl": "files/night.safetensors",
    } | changes


def only(**changes: Any) -> Listing:
    (listing,) = parse_model(page(**changes), "hub")
    return listing


def with_file(**changes: Any) -> Listing:
    return only(modelVersions=[version(files=[file(**changes)])])


def hub(folder: Path, *pages: object) -> FolderCrawler:
    (folder / "models").mkdir(parents=True)
    (folder / "hub.json").write_text('{"name": "hub"}')
    for number, content in enumerate(pages):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "models" / f"{number}.json").write_bytes(text)
    return FolderCrawler(folder)


def test_a_page_in_order_is_understood() -> None:
    listing = only()
    assert str(listing.ref) == "hub:7@71"
    assert listing.name == "Nightfall v1"
    assert listing.trigger_words == ("night",)
    assert listing.example_prompts == ("a cat, night",)
    assert listing.file is not None
    assert (listing.file.size_bytes, listing.file.sha256) == (12800, "ab" * 32)
    assert examine(listing, get_family("emoji64")) is None


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    math.nan,
    math.inf,
    "",
    "\ud800",
    [],
    [None],
    {},
    [[]],
    [{}],
    1.5,
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", sorted(page()))
def test_any_value_in_any_field_of_a_page_is_read_or_refused(field: str, wrong: Any) -> None:
    _read_or_refused(page(**{field: wrong}))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", sorted(version()))
def test_any_value_in_any_field_of_a_version_is_read_or_refused(field: str, wrong: Any) -> None:
    _read_or_refused(page(modelVersions=[version(**{field: wrong})]))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", sorted(file()))
def test_any_value_in_any_field_of_a_file_is_read_or_refused(field: str, wrong: Any) -> None:
    _read_or_refused(page(modelVersions=[version(files=[file(**{field: wrong})])]))


def _read_or_refused(item: dict[str, Any]) -> None:
    try:
        listings = parse_model(item, "hub")
    except UnusableListing:
        return
    for listing in listings:
        assert Listing.model_validate_json(listing.model_dump_json()) == listing
        examine(listing, get_family("emoji64"))


@pytest.mark.parametrize(
    "item", [None, [], "page", 3, {}, {"id": 3}, {"id": 3, "modelVersions": None}]
)
def test_what_is_no_page_is_refused(item: object) -> None:
    with pytest.raises(UnusableListing):
        parse_model(item, "hub")


@pytest.mark.parametrize(
    "identifier",
    ["", "../../etc/passwd", "a/b", "a@b", "a:b", ".hidden", "a b", "a\nb", "x" * 81, "..", True,
     -3, 1.0, "\uff41", 10**30],
)  # fmt: skip
def test_an_identifier_that_could_be_a_path_or_a_reference_is_refused(identifier: object) -> None:
    with pytest.raises(UnusableListing, match="usable id"):
        parse_model(page(id=identifier), "hub")


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/cron.d/evil",
        "..\\..\\evil.safetensors",
        "/etc/passwd",
        "C:\\evil",
        "..",
        "\x00",
    ],
)
def test_a_file_name_never_holds_a_path(name: str) -> None:
    listing = with_file(name=name)
    assert listing.file is not None
    assert not set("/\\\x00") & set(listing.file.name)
    assert listing.file.name.strip(".")


@pytest.mark.parametrize(
    "url",
    ["../secret.safetensors", "/etc/passwd", "files/../../secret.safetensors", "files", "~/x",
     "files/link.safetensors", "file:///etc/passwd", "https://example.org/x.safetensors",
     "files/\x00", "files/" + "x" * 1900, "models/0.json/../../../secret.safetensors"],
)  # fmt: skip
def test_only_files_inside_the_hub_are_fetched(url: str, tmp_path: Path) -> None:
    crawler = hub(tmp_path / "hub")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (tmp_path / "hub/files").mkdir()
    (tmp_path / "hub/files/link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(UnusableListing):
        crawler.fetch(with_file(downloadUrl=url), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scripts_stay_text() -> None:
    listing = only(name="<script>alert(1)</script>", description="<img src=x onerror=alert(1)>")
    assert listing.name == "<script>alert(1)</script> v1"  # data; whoever writes HTML escapes it
    assert listing.description == "<img src=x onerror=alert(1)>"


def test_characters_that_hide_or_break_text_are_removed() -> None:
    listing = only(
        name="safe\u202egpj.exe\x00\x1b[31m",
        description="a\x00b\nc\u2066d\ud83d",
        tags=["night\r\nSet-Cookie: x", "\u200f"],
    )
    assert listing.name == "safe gpj.exe [31m v1"
    assert listing.description == "a b\nc d"
    assert listing.tags == ("night Set-Cookie: x",)
    listing.model_dump_json().encode()


def test_what_is_too_long_is_cut() -> None:
    listing = only(
        name="n" * 10_000,
        description="d" * 3_000_000,
        tags=[f"tag {number}" for number in range(10_000)],
        modelVersions=[
            version(
                trainedWords=["w" * 100_000] * 3,
                images=[{"url": f"{number}.png"} for number in range(5_000)],
            )
        ],
    )
    assert len(listing.name) <= 200
    assert len(listing.description) == DESCRIPTION_CHARACTERS
    assert len(listing.tags) == LIST_ITEMS
    assert len(listing.images) == IMAGES
    assert len(listing.trigger_words) == 1


@pytest.mark.parametrize(
    ("given", "read"),
    [("Sell", ("Sell",)), ("{Image,RentCivit}", ("Image", "RentCivit")), ("None", ()), ("", ()),
     (["Image", "Sell"], ("Image", "Sell")), (None, ()), ([None, 3, "Rent", "Rent"], ("Rent",)),
     ({"a": 1}, ()), ("{}", ())],
)  # fmt: skip
def test_commercial_use_is_read_in_each_of_its_shapes(given: object, read: tuple[str, ...]) -> None:
    assert only(allowCommercialUse=given).licence.allow_commercial_use == read


@pytest.mark.parametrize("given", [False, None, "false", "yes", 0, 1, [], "true"])
def test_derivatives_are_allowed_only_plainly(given: object) -> None:
    listing = only(allowDerivatives=given)
    assert not listing.licence.allow_derivatives
    assert "derivatives" in str(examine(listing, get_family("emoji64")))


@pytest.mark.parametrize("size", [-5, math.nan, math.inf, "12", None, True, 10**400])
def test_a_senseless_size_is_no_size(size: object) -> None:
    listing = with_file(sizeKB=size)
    assert listing.file is not None
    assert listing.file.size_bytes == 0


@pytest.mark.parametrize("sha256", ["", "zz" * 32, "ab", None, 3, "AB" * 33, ["ab" * 32]])
def test_a_senseless_hash_is_no_hash(sha256: object) -> None:
    listing = with_file(hashes={"SHA256": sha256})
    assert listing.file is not None
    assert listing.file.sha256 == ""


@pytest.mark.parametrize(
    "moment", ["yesterday", "2023-13-45", 1675332000, None, "9999-12-31T23:59:59-12:00", ""]
)
def test_a_senseless_date_is_no_date(moment: object) -> None:
    assert only(modelVersions=[version(publishedAt=moment)]).published_at is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "TextualInversion"}, "TextualInversion"),
        ({"type": "Brand New Kind"}, "Brand New Kind"),
        ({"nsfw": True}, "safe for work"),
        ({"modelVersions": [version(baseModel="SD 1.5")]}, "SD 1.5"),
        ({"modelVersions": [version(baseModel=None)]}, "emoji64"),
        ({"modelVersions": [version(files=[])]}, "no file"),
        ({"modelVersions": [version(availability="EarlyAccess")]}, "early access"),
        ({"modelVersions": [version(files=[file(metadata={"format": "PickleTensor"})])]}, "code"),
        ({"modelVersions": [version(files=[file(pickleScanResult="Danger")])]}, "Danger"),
        ({"modelVersions": [version(files=[file(virusScanResult="Pending")])]}, "Pending"),
        ({"modelVersions": [version(files=[file(sizeKB=1e12)])]}, "GiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_merged_is_refused_before_a_download(
    changes: dict[str, Any], reason: str
) -> None:
    refusal = examine(only(**changes), get_family("emoji64"))
    assert refusal is not None
    assert reason in refusal
    assert "\n" not in refusal


def test_a_safe_file_is_preferred_to_a_pickle() -> None:
    pickle = file(metadata={"format": "PickleTensor"}, name="a.ckpt", primary=True)
    listing = only(modelVersions=[version(files=[pickle, file(), file(type="Training Data")])])
    assert listing.file is not None
    assert listing.file.format == "SafeTensor"


BROKEN = {
    "empty": b"",
    "cut": b'{"id": 7, "name": "Night',
    "not text": b"\xff\xfe\x00{",
    "markup": b"<!DOCTYPE html><title>Sign in</title>",
    "deep": b"[" * 200_000,
    "long number": b'{"id": ' + b"9" * 10_000 + b"}",
    "a list": b"[1, 2]",
    "null": b"null",
    "no versions": b'{"id": 7}',
    "huge": b" " * (PAGE_BYTES + 1),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_page_is_named_and_the_others_are_read(content: bytes, tmp_path: Path) -> None:
    crawler = hub(tmp_path / "hub", page(id=1), content, page(id=2))
    found = list(crawler.listings())
    assert [type(entry) for entry in found] == [Listing, BrokenPage, Listing]
    broken = found[1]
    assert isinstance(broken, BrokenPage)
    assert broken.where == "models/1.json"
    assert broken.reason
    assert "\n" not in broken.reason
    assert len(broken.reason) < 300


def test_a_version_that_is_listed_twice_is_counted_once(tmp_path: Path) -> None:
    crawler = hub(tmp_path / "hub", page(modelVersions=[version(), version()]), page())
    found = list(crawler.listings())
    assert [type(entry) for entry in found] == [Listing, BrokenPage, BrokenPage]
    assert "twice" in found[1].reason  # type: ignore[union-attr]


def test_a_stored_answer_with_several_models_is_read(tmp_path: Path) -> None:
    crawler = hub(tmp_path / "hub", {"items": [page(id=1), page(id=2)], "metadata": {}})
    assert [str(entry.ref) for entry in crawler.listings() if isinstance(entry, Listing)] == [
        "hub:1@71",
        "hub:2@71",
    ]


def test_one_bad_model_in_a_stored_answer_leaves_the_others(tmp_path: Path) -> None:
    crawler = hub(tmp_path / "hub", {"items": [page(id=1), None, page(id=2)]})
    assert [type(entry) for entry in crawler.listings()] == [Listing, BrokenPage, Listing]


@pytest.mark.parametrize(
    "about", [b"", b"[]", b"{}", b'{"name": 3}', b'{"name": "../x"}', b"\xff", None]
)
def test_a_folder_that_is_no_hub_says_so(about: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    if about is not None:
        (tmp_path / "hub.json").write_bytes(about)
    with pytest.raises(DiffgraphError, match=r"hub\.json") as failure:
        FolderCrawler(tmp_path)
    assert "\n" not in str(failure.value)
