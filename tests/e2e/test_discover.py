"""`discover` on live hubs: what is said, what is kept, and that no secret gets out."""

import json
import os
import time
from pathlib import Path

import pytest

from diffgraph.experts.library import Library
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page, pages
from tests.servers.huggingface import HuggingFaceServer, repository

TOKEN = "a-secret-token"

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


def test_a_hub_is_read_told_and_kept(diffgraph, home):
    with CivitaiServer(pages(120)) as hub:
        arguments = ("discover", "--source", "civitai", "--url", hub.url, "--home", home)
        told = diffgraph(*arguments, "--metadata-only")
        assert told.code == 0, told.err
        assert "108 known by their pages only" in told.out
        assert "marked as drawing a real person" in told.out
        again = diffgraph(*arguments, "--metadata-only", "--json").json
    assert again["unchanged"] == 118
    assert (again["listed"], again["refused"], again["failed"]) == (0, [], [])
    assert len(Library(home).experts()) == 118


def test_of_many_refusals_the_reasons_are_counted(diffgraph, home):
    hub = CivitaiServer(page(number, nsfw=True) for number in range(1, 60))
    with hub:
        told = diffgraph(
            "discover", "--source", "civitai", "--url", hub.url, "--home", home, "--metadata-only"
        )
    assert "59 refused:" in told.out
    (line,) = [line for line in told.out.splitlines() if "not safe for work" in line]
    assert line.startswith("59 ")


def test_keys_that_are_left_out_are_told(diffgraph, home, tmp_path):
    """Too few for the file to be another base's: it is used, but not without a word."""
    import torch
    from safetensors.torch import save_file

    from diffgraph.families import get_family

    folder = tmp_path / "hub"
    for name in ("models", "files"):
        (folder / name).mkdir(parents=True)
    (folder / "hub.json").write_text('{"name": "hub"}')
    layers = [
        (name.removesuffix(".weight"), value.shape)
        for name, value in get_family("emoji64").load("cpu").parameters().items()
        if name.startswith("unet.") and name.endswith(".weight") and value.ndim == 2
    ][:12]
    tensors = {f"{stem}.lora_A.weight": torch.ones(2, shape[1]) for stem, shape in layers}
    tensors |= {f"{stem}.lora_B.weight": torch.ones(shape[0], 2) for stem, shape in layers}
    save_file(tensors | {"unet.gone.weight": torch.ones(3)}, folder / "files/a.safetensors")
    version = {"id": 2, "baseModel": "emoji64", "files": [{"downloadUrl": "files/a.safetensors"}]}
    told = {"id": 1, "name": "partly", "type": "LORA", "modelVersions": [version]}
    (folder / "models/1.json").write_text(json.dumps(told))
    found = diffgraph("discover", "--path", folder, "--home", home)
    assert found.code == 0, found.err
    assert "hub:1@2: 24 keys → 12 parameters; left out: 1 unknown, 'unet.gone.weight'" in found.out


def test_a_shared_limit_paces_requests_and_a_config_changes_it(diffgraph, home, tmp_path):
    config = tmp_path / "web.toml"
    config.write_text(
        "[web]\nrequests_per_minute = 240\npage_size = 10\npasses = 1\n"
        "[discovery]\nminimum_downloads = 1000000\n"
    )
    with CivitaiServer(pages(30)) as hub:
        start = time.monotonic()
        told = diffgraph(
            "discover", "--source", "civitai", "--url", hub.url, "--home", home,
            "--metadata-only", "--config", config, "--json",
        )  # fmt: skip
        seconds = time.monotonic() - start
        asked = len(hub.asked("/models"))
    assert told.code == 0, told.err
    assert len(told.json["refused"]) == 30, "nobody was downloaded a million times"
    assert seconds >= (asked - 1) * 0.25


def test_hugging_face_is_read(diffgraph, home):
    with HuggingFaceServer([repository("a/one"), repository("b/two")]) as hub:
        told = diffgraph(
            "discover", "--source", "huggingface", "--family", "sd15", "--url", hub.url,
            "--home", home, "--metadata-only",
        )  # fmt: skip
    assert told.code == 0, told.err
    assert "2 known by their pages only" in told.out


def test_a_hub_that_does_not_answer_is_one_line_and_no_secret(diffgraph, home, tmp_path):
    config = tmp_path / "web.toml"
    config.write_text("[web]\ntries = 1\n")
    os.environ["DIFFGRAPH_CIVITAI_TOKEN"] = TOKEN
    with CivitaiServer(pages(3), tokens=[TOKEN]) as hub:
        hub.fail(403, times=100)
        told = diffgraph(
            "discover", "--source", "civitai", "--url", hub.url, "--home", home, "--config", config
        )
    assert told.code == 1
    assert "403 Forbidden" in told.err.strip().splitlines()[-1]
    assert TOKEN not in told.out + told.err
