"""`refresh` from a live hub: what is new comes in once, and a second night changes nothing."""

from hashlib import sha256

import pytest

from diffgraph.experts.library import Library
from diffgraph.graph.snapshot import current_id, open_snapshot
from diffgraph.homes import family_folder
from recipes.emoji64.unusable import lora
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page

OLD = 1  # each page is published an hour after the one before: this one on the first day of 2023

pytestmark = pytest.mark.usefixtures("prefect_server")


def a_hub(*numbers: int) -> CivitaiServer:
    """Return a hub that offers a small LoRA for each number."""
    weights = {number: lora(number / 100) for number in numbers}
    hub = CivitaiServer(files={number * 10 + 1: weights[number] for number in numbers})
    for number, data in weights.items():
        file = {"sizeKB": len(data) / 1024, "hashes": {"SHA256": sha256(data).hexdigest().upper()}}
        hub.publish(page(number, type="LORA", file=file))
    return hub


def test_new_experts_of_a_live_hub_come_in_once(diffgraph, home, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffgraph.session.training_due.DUE_AFTER", 10
    )  # another test sees to training
    (tmp_path / "two.toml").write_text("[calibration]\nprompts = 2\n")
    before = set(open_snapshot(family_folder(home, "emoji64")).refs)

    with a_hub(OLD, 30, 31) as hub:

        def refresh(*arguments: str) -> dict:
            live = ("--source", "civitai", "--url", hub.url, "--config", tmp_path / "two.toml")
            told = diffgraph("refresh", *live, *arguments, "--json")
            assert told.code == 0, told.err
            return told.json

        first = refresh("--limit", "1")
        (one,) = first["discovery"]["new"]
        assert first["build"]["new"] == [one]
        assert first["build"]["images"] == 2, "one new expert on two prompts"

        second = refresh("--since", "2023-01-02")
        (two,) = second["discovery"]["new"]
        assert second["build"]["images"] == 2
        graph, fetched = current_id(family_folder(home, "emoji64")), len(hub.storage.requests)
        assert set(open_snapshot(family_folder(home, "emoji64"), graph).refs) == before | {one, two}
        assert not {ref for ref in (one, two) if ref.endswith(f":{OLD}@{OLD}1")}

        third = refresh("--since", "2023-01-02")
        assert len(hub.storage.requests) == fetched
    changes = [third["discovery"][kind] for kind in ("new", "updated", "superseded", "retired")]
    assert changes == [[], [], [], []]
    assert (third["build"]["images"], third["build"]["snapshot"]) == (0, graph)
    assert current_id(family_folder(home, "emoji64")) == graph
    assert {expert.ref for expert in Library(home).experts("ready")} == before | {one, two}
