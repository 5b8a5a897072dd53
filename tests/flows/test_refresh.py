"""`refresh` from a live hub: what is new comes in once, and a second night changes nothing."""

from datetime import timedelta
from hashlib import sha256

import pytest

from diffgraph.experts.library import Library
from diffgraph.graph.snapshot import current_id, open_snapshot
from diffgraph.recipe.unusable import lora
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import FIRST_DAY, page

SECOND_IS_NEWS = FIRST_DAY + timedelta(hours=1.5)  # each page is published an hour later

pytestmark = pytest.mark.usefixtures("prefect_server", "our_environment")


def a_hub(*numbers: int) -> CivitaiServer:
    """Return a hub that offers a small LoRA for each number."""
    weights = {number: lora(number / 40) for number in numbers}
    hub = CivitaiServer(files={number * 10 + 1: weights[number] for number in numbers})
    for number, data in weights.items():
        file = {"sizeKB": len(data) / 1024, "hashes": {"SHA256": sha256(data).hexdigest().upper()}}
        hub.publish(page(number, type="LORA", file=file))
    return hub


def test_new_experts_of_a_live_hub_come_in_once(home, monkeypatch):
    from flows import refresh as nightly

    monkeypatch.setattr(nightly, "DUE_AFTER", 10)  # another test sees to training
    before = set(open_snapshot(home).refs)
    with a_hub(1, 2, 3) as hub:
        live = {"source": "civitai", "url": hub.url, "reference_prompts": 2}
        first = nightly.refresh(**live, limit=1)
        (one,) = first.discovery.new
        assert first.build.new == (one,)
        assert first.build.images == 2, "one new expert on two prompts"

        second = nightly.refresh(**live, since=SECOND_IS_NEWS)
        (two,) = second.discovery.new
        assert second.build.images == 2
        graph, fetched = current_id(home), len(hub.storage.requests)
        assert set(open_snapshot(home, graph).refs) == before | {one, two}
        assert not {ref for ref in (one, two) if ref.endswith(":1@11")}, "the first is too old"

        third = nightly.refresh(**live, since=SECOND_IS_NEWS)
        assert len(hub.storage.requests) == fetched
    look = third.discovery
    assert (look.new, look.updated, look.superseded, look.retired) == ((), (), (), ())
    assert (third.build.images, third.build.snapshot, current_id(home)) == (0, graph, graph)
    assert {expert.ref for expert in Library(home).experts("ready")} == before | {one, two}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:1"], "--source"),
        (["--source", "civitai", "--path", "."], "--url"),
        (["--source", "huggingface"], "emoji64 has no base model on Hugging Face"),
    ],
)
def test_what_cannot_be_meant_is_told_before_it_starts(diffgraph, tmp_path, arguments, says):
    told = diffgraph("refresh", *arguments, "--home", tmp_path / "home")
    assert told.code == 1
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert says in line
    assert not (tmp_path / "home").exists()
