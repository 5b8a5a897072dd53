"""A hub over HTTP is read to its end: nobody lost, nobody twice, whatever happens meanwhile."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from diffgraph.crawlers.discovery import DiscoveryConfig, discover
from tests.diffgraph.crawlers.civitai.crawls import EMOJI64, CivitaiHome, reasons, ref
from tests.diffgraph.crawlers.home import TOKEN
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages


def test_every_expert_is_known_and_every_refusal_has_its_reason(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(100))
    report = home.discover(hub)
    refused = reasons(report)
    assert len(report.listed) == 90
    assert report.broken == report.failed == ()
    assert report.is_whole
    assert {
        int(name[8:].split("@")[0]): reason.split(":")[0] for name, reason in refused.items()
    } == {
        5: "marked as not safe for work",
        15: "marked as drawing a real person",
        25: "its page forbids derivatives, and a merge is one",
        35: "the hub's pickle scan says 'Danger', not 'Success'",
        45: "offers only PickleTensor files, which could run code; expected SafeTensor",
        75: "offers no file (early access, or taken down)",
        85: "offers no file (early access, or taken down)",
        95: "the hub's virus scan says 'Pending', not 'Success'",
    }
    asked = hub.asked("/models")[0].query
    assert set(asked["types"]) == {"Checkpoint", "LORA", "LoCon", "DoRA"}
    assert asked["baseModels"] == ["emoji64"], "the hub is asked for this family only"


def test_a_second_run_with_nothing_new_changes_nothing(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(pages(40))
    home.discover(hub)
    table = home.folder / "library" / "experts.jsonl"
    before = table.read_bytes()
    report = home.discover(hub)
    assert len(report.unchanged) == len(home.refs) == 40
    assert table.read_bytes() == before


def test_few_downloads_and_low_ratings_are_refused_when_asked(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    hub = serve(
        [
            page(1, version={"stats": {"downloadCount": 99}}),
            page(2, version={"stats": {"downloadCount": 100}},
                 stats={"rating": 3.9, "ratingCount": 5}),
            page(3, version={"stats": {"downloadCount": 100}},
                 stats={"thumbsUpCount": 90, "thumbsDownCount": 10}),
            page(4, version={"stats": {"downloadCount": 500}}, stats={}),
        ]
    )  # fmt: skip
    config = DiscoveryConfig(metadata_only=True, minimum_downloads=100, minimum_rating=4.0)
    assert reasons(home.discover(hub, config)) == {
        ref(1): "downloaded 99 times, fewer than 100",
        ref(2): "rated 3.9, expected 4.0 at least",
        ref(4): "nobody rated it, expected 4.0 at least",
    }
    assert home.library.get(ref(3)).status == "registered_only"


class TestAHubThatChangesWhileItIsRead:
    """Nobody who stays is lost, nobody comes twice."""

    @pytest.mark.parametrize("paging", ["keyset", "offset"])
    def test_what_is_published_and_withdrawn_meanwhile(
        self, paging: str, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(60), paging=paging)
        hub.before_list(2, lambda: [hub.publish(page(number)) for number in (101, 102, 103)])
        hub.before_list(4, lambda: [hub.unpublish(number) for number in (60, 59, 58, 57)])
        report = home.discover(hub)
        stayed = {ref(number) for number in (*range(1, 57), 101, 102, 103)} - {
            ref(55)  # the hub does not list another base model
        }
        assert stayed <= set(home.refs)
        assert len(home.refs) == len(set(home.refs))
        seen = [expert.ref for group in (report.listed, report.rejected) for expert in group]
        assert len(seen) == len(set(seen))

    def test_who_has_gone_is_retired_and_who_was_only_not_shown_is_not(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(30))
        home.discover(hub)
        hub.unpublish(7)
        hub.publish(page(8, nsfw=True), body=json.dumps(page(8, nsfw=True)).encode())
        hub.publish({**page(9), "type": "Workflows"})  # no longer in the list we ask for
        report = home.discover(hub)
        assert [expert.ref for expert in report.retired] == [ref(7)]
        assert home.library.get(ref(9)).reason.startswith("'Workflows' is no set of weights")

    def test_a_new_version_is_found(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(12))
        home.discover(hub)
        content = page(3)
        newer = {**content["modelVersions"][0], "id": 999, "publishedAt": "2024-05-05T00:00:00Z"}
        hub.publish({**content, "modelVersions": [newer, *content["modelVersions"]]})
        report = home.discover(hub)
        assert [expert.ref for expert in report.listed] == ["civitai:3@999"]

    def test_a_cursor_that_skips_costs_nobody(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        """As civitai/civitai#1372: the first expert behind a page is dropped."""

        class Skipping(CivitaiServer):
            def _start(self, cursor: str, newest_first: bool) -> int | None:
                start = super()._start(cursor, newest_first)
                return start - 1 if start and cursor and newest_first else start

        with Skipping(pages(50)) as hub:
            home.discover(hub)
        assert {ref(number) for number in range(1, 51)} <= set(home.refs)

    def test_a_cursor_that_leads_back_ends_the_walk(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        class Circling(CivitaiServer):
            def _answer_with(self, request: Any, found: Any, cursor: str | None) -> Any:
                return super()._answer_with(request, found, cursor and "2023-01-02T00:00:00Z|5")

        with Circling(pages(40)) as hub:
            report = home.discover(hub)
        assert [entry.reason for entry in report.broken] == ["its cursor leads back; not followed"]

    def test_empty_pages_in_between_do_not_end_a_walk(
        self, home: CivitaiHome, serve: Callable[..., CivitaiServer]
    ) -> None:
        hub = serve(pages(40))
        empty = lambda reply: type(reply).json(  # noqa: E731
            {"items": [], "metadata": json.loads(reply.body)["metadata"]}
        )
        hub.disturb(empty, path="/models", times=2)
        home.discover(hub)
        assert len(home.refs) == 40, "what the first walk missed, the second one brings"


def test_a_file_is_downloaded_checked_and_admitted(
    home: CivitaiHome, serve: Callable[..., CivitaiServer]
) -> None:
    import hashlib

    import torch
    from safetensors.torch import save

    layer = "unet.mid.to_q"
    data = save(
        {f"{layer}.lora_A.weight": torch.ones(1, 4), f"{layer}.lora_B.weight": torch.ones(6, 1)}
    )
    sums = {"SHA256": hashlib.sha256(data).hexdigest()}
    hub = serve(
        [page(1, file={"hashes": sums}), page(2)],
        files={11: data, 21: data},
        tokens=[TOKEN],
        private=True,
    )
    with home.crawler(hub, token=TOKEN) as crawler:
        report = discover(
            crawler, home.library, EMOJI64, parameters={f"{layer}.weight": torch.ones(6, 4)}
        )
    assert [expert.ref for expert in report.new] == [ref(1)]
    assert "SHA-256" in reasons(report)[ref(2)], "its hash is another than its page says"
    assert {request.token for request in hub.storage.requests} == {""}
