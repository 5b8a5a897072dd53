"""Strange pages are counted, and the others are read as the hub means them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.experts.expert import Listing
from tests.diffgraph.crawlers.civitai.crawls import CivitaiHome, reasons, ref
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages

STRANGE: dict[str, Any] = {
    "a huge description": page(1, description="<p>" + "x" * 3_000_000),
    "emoji and right to left": page(1, name="🦊\u202e مصباح \x00\x1b[31m"),
    "a file name with a path": page(1, file={"name": "../../etc/passwd.safetensors"}),
    "a negative size": page(1, file={"sizeKB": -5}),
    "unknown enums": page(1, file={"metadata": {"format": "Quantum", "size": 7, "fp": []}}),
    "an unknown type": page(1, type="Telepathy"),
    "no versions": page(1, modelVersions=[]),
    "versions without files": page(1, version={"files": None}),
    "nothing but an id": {"id": 1},
    "an id twice": page(1, modelVersions=[page(1)["modelVersions"][0]] * 2),
    "a version without an id": page(1, modelVersions=[{}, page(1)["modelVersions"][0]]),
    "an address of a file elsewhere": page(1, file={"downloadUrl": "file:///etc/passwd"}),
    "an address that is none": page(1, file={"downloadUrl": "http://[::1"}),
    "an id that is no text": {**page(1), "id": "\ud800"},
    "a level of nonsense": page(1, nsfwLevel="much", minor="perhaps", poi=3),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_page_is_counted_and_the_others_are_read(
    name: str, home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(3))
    hub.publish(page(1, type="LORA"), body=json.dumps(STRANGE[name]).encode())
    report = home.discover(hub)
    assert {ref(2), ref(3)} <= set(home.refs)
    told = [*report.broken, *report.rejected, *report.listed, *report.registered_only]
    assert len(told) == 3 + (name in {"an id twice", "a version without an id"})
    assert all(entry.reason and "\n" not in entry.reason for entry in told)


def test_a_listing_is_completed_as_the_hub_means_it(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, file={"downloadUrl": None}),
            page(2, file={"downloadUrl": "/api/download/models/21"}),
            page(3, file={"pickleScanResult": None}),
        ]
    )
    with home.crawler(hub) as crawler:
        found = {
            entry.ref.model: entry for entry in crawler.listings() if isinstance(entry, Listing)
        }
    assert found["1"].file.url == f"{hub.url}/api/download/models/11"
    assert found["2"].file.url == f"{hub.url}/api/download/models/21"
    assert found["3"].file.pickle_scan == "missing"
    assert found["1"].page_url == f"{hub.url}/models/1"


def test_what_can_be_told_from_a_page_costs_no_download(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, version={"baseModelType": "Inpainting"}),
            page(2, version={"usageControl": "InternalGeneration"}),
            page(3, file={"name": "model.ckpt", "metadata": {}}),
        ]
    )
    assert reasons(home.discover(hub)) == {
        ref(1): "made for 'emoji64 Inpainting', not for 'emoji64'",
        ref(2): "offers no file (early access, or taken down)",
        ref(3): "offers only .ckpt files, which could run code",
    }


def test_explicit_example_images_are_left_out(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    explicit = [{"nsfw": "X"}, {"nsfw": "Mature"}, {"nsfw": True}, {"nsfwLevel": 8}, {"nsfw": "x"}]
    marks = [*explicit, {"nsfw": "Soft"}, {"nsfw": "None"}, {"nsfwLevel": 2}]
    images = [{"url": f"http://h/{place}", **mark} for place, mark in enumerate(marks)]
    hub = serve([page(1, version={"images": images})])
    home.discover(hub)
    shown = [image.url for image in home.library.listing(ref(1)).images]
    assert shown == ["http://h/5", "http://h/6", "http://h/7"]


def test_an_expert_that_is_twice_in_an_answer_is_told_and_kept_once(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(4))
    twice = json.dumps(page(2)).encode()
    hub.publish(page(2), body=twice + b"," + twice)
    report = home.discover(hub)
    assert home.refs == [ref(number) for number in range(1, 5)]
    told = BrokenPage(where="models/2", reason=f"{ref(2)} is listed twice")
    assert report.broken == (told,)


def test_a_broken_page_is_told_once_though_it_is_read_twice(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve([*pages(5), {"id": 9, "type": "LORA", "modelVersions": [{"baseModel": "emoji64"}]}])
    report = home.discover(hub)
    assert report.broken == (
        BrokenPage(where="models/9", reason="page 9 has no version with an id"),
    )
