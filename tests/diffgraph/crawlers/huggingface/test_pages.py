"""Whatever a page says is read, and permits no more than it says."""

from collections.abc import Callable
from typing import Any

import pytest

from diffgraph.crawlers.huggingface_pages import parse_repository
from diffgraph.errors import UnusableListing
from diffgraph.experts.expert import Listing
from tests.diffgraph.crawlers.huggingface.crawls import SD15, HuggingFaceHome, reasons
from tests.servers.huggingface import BASE, HuggingFaceServer, repository


def parse(**changes: Any) -> Listing:
    entry = repository("maker/glow", **changes)
    return parse_repository(entry, entry["_readme"], "adapter", SD15.hub_names, "http://hub")


def test_a_page_is_understood() -> None:
    listing = parse()
    assert str(listing.ref).startswith("huggingface:maker/glow@")
    assert listing.description == "# A style\n\nDraws everything at night."
    assert (listing.type, listing.base_model) == ("LORA", BASE)
    assert listing.trigger_words == ("nightglow",)
    assert listing.tags == ("lora", "text-to-image", "night")
    assert listing.example_prompts == ("a fox, nightglow",)
    assert listing.images[0].url.startswith("http://hub/maker/glow/resolve/")
    assert listing.licence.name == "creativeml-openrail-m"
    assert listing.licence.allow_derivatives
    assert listing.licence.creator == "maker"
    assert listing.file is not None
    assert listing.file.url.startswith("http://hub/maker/glow/resolve/")
    assert listing.page_url == "http://hub/maker/glow"
    assert not listing.gated


@pytest.mark.parametrize(
    ("about", "derivatives", "commercial", "credit"),
    [
        ({"license": "mit"}, True, ("Sell",), True),
        ({"license": "cc-by-nc-4.0"}, True, (), True),
        ({"license": "cc-by-nd-4.0"}, False, ("Sell",), True),
        ({"license": "cc-by-nc-nd-4.0"}, False, (), True),
        ({"license": "openrail++"}, True, ("Sell",), False),
        ({"license": "other", "license_name": "flux-1-non-commercial-license"}, False, (), False),
        ({"license": "other", "license_name": "mit"}, False, (), False),
        ({"license": "my-own-words"}, False, (), False),
        ({"license": "other"}, False, (), False),
        ({"license": "mit", "license_name": "cc-by-nd-4.0"}, False, ("Sell",), True),
        ({"license": "mit", "license_name": "ask me first"}, False, (), True),
        ({"license": "cc-by-nd-4.0", "license_link": "https://h/?allowDerivatives=True"},
         False, (), True),
        ({"license": "unknown"}, False, (), False),
        (
            {
                "license": "other",
                "license_name": "bespoke-lora-trained-license",
                "license_link": "https://example.org/?allowNoCredit=False"
                "&allowCommercialUse=Image&allowDerivatives=False&allowDifferentLicense=True",
            },
            False,
            ("Image",),
            True,
        ),
    ],
)  # fmt: skip
def test_a_licence_permits_what_it_says_and_no_more(
    about: dict[str, Any], derivatives: bool, commercial: tuple[str, ...], credit: bool
) -> None:
    licence = parse(about=about).licence
    assert licence.allow_derivatives is derivatives
    assert licence.allow_commercial_use == commercial
    assert licence.credit_required is credit


def test_refusals_have_their_reasons(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve(
        [
            repository("a/pickle", files={"pytorch_lora_weights.bin": b""}),
            repository("a/folder", relation="finetune", files={"vae/model.safetensors": b""}),
            repository("a/empty", files={}),
            repository("a/adult", tags=[f"base_model:adapter:{BASE}", "not-for-all-audiences"]),
            repository("a/control", tags=[f"base_model:adapter:{BASE}", "controlnet"]),
            repository("a/silent", about={"license": None}, tags=[f"base_model:adapter:{BASE}"]),
            repository("a/nothing", sha=None),
            {**repository("a/x"), "id": "../../etc/passwd"},
        ]
    )
    report = home.discover(hub)
    assert sorted(reasons(report)) == [
        "'Controlnet' is no set of weights that can be merged",
        "its page states no licence that we know, so none permits a merge",
        "marked as not safe for work",
        "offers no file (early access, or taken down)",
        "offers only PickleTensor files, which could run code; expected SafeTensor",
        "offers only parts of a model (an autoencoder, adapters of single components); expected a "
        "SafeTensor file, or a folder with a unet or a transformer",
    ]
    assert sorted(page.reason for page in report.broken) == [
        "the page has no usable repository name",
        "the page of a/nothing names no commit",
    ]


WRONG: tuple[Any, ...] = (None, True, -1, 1e400, "", "\ud800", [], [None], {}, [[]], [{}], 1.5)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize("field", sorted(key for key in repository("a/b") if key[0] != "_"))
def test_any_value_in_any_field_is_read_or_refused(field: str, wrong: Any) -> None:
    for changes in ({field: wrong}, {"cardData": {field: wrong}}):
        try:
            listing = parse(**changes)
        except UnusableListing:
            continue
        assert Listing.model_validate_json(listing.model_dump_json()) == listing


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize(
    "field", ["base_model", "license", "license_link", "license_name", "instance_prompt", "widget"]
)
def test_any_value_in_any_field_of_a_card_is_read(field: str, wrong: Any) -> None:
    listing = parse(about={"license": "other", field: wrong})
    assert Listing.model_validate_json(listing.model_dump_json()) == listing
