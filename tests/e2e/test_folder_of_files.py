"""From a person's folder of LoRAs to a plan, by the commands alone."""

import json

import pytest

from diffgraph.artifacts import sha256_of
from diffgraph.experts.library import Library
from tests.flows.cli.test_folder_of_files import TRAINED, as_trained
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_folders_are_found_measured_and_chosen_among(diffgraph, tmp_path):
    home = ("--home", tmp_path / "home")
    folders = []
    for name in TRAINED:
        folders += ["--path", as_trained(name, tmp_path / f"of_{name}").parent]
    told = diffgraph("discover", "--source", "folder", *folders, *home)
    assert told.code == 0, told.err
    assert told.out.startswith("of_blueprint, of_pencil: 2 new")
    assert "2 not calibrated yet: plan and generate merge them" in told.out
    told = diffgraph("plan", "a cat, pencil sketch", *home)
    assert told.code == 0, told.err
    assert "not calibrated yet: strengths are the pages'" in told.out
    assert "of_pencil:pencil@" in told.out
    again = diffgraph("discover", *folders, *home, "--json").json
    assert (again["new"], again["unchanged"], again["ready"]) == ([], 2, 2)

    (tmp_path / "config.toml").write_text("[calibration]\nprompts = 2\n")
    built = diffgraph("build", *home, "--config", tmp_path / "config.toml")
    assert built.code == 0, built.err
    told = diffgraph("plan", "a cat, pencil sketch", *home, "--json")
    assert told.code == 0, told.err
    assert "of_pencil:pencil@" in json.dumps(told.json)


def test_little_known_files_are_asked_for_by_hash_when_it_is_said(diffgraph, tmp_path, monkeypatch):
    file = as_trained("pencil", tmp_path / "loras")
    home = ("--home", tmp_path / "home")
    with CivitaiServer() as hub:
        monkeypatch.setenv("DIFFGRAPH_CIVITAI_URL", hub.url)
        hashes = {"hashes": {"SHA256": sha256_of(file)}}
        hub.publish(page(1, "emoji64", name="Graphite", file=hashes, version={"name": "v1"}))
        first = diffgraph("discover", "--path", file.parent, *home, "--json")
        assert first.code == 0, first.err
        assert not hub.requests
        told = diffgraph("discover", "--path", file.parent, "--online", *home, "--json")
        assert told.code == 0, told.err
        assert len(hub.requests) == 2
    (ref,) = told.json["updated"]
    assert Library(tmp_path / "home").get(ref).name == "Graphite v1"
    laid_out = diffgraph("discover", "--online", *home)  # the hub that ships has pages
    assert laid_out.code == 1
    assert "--online is for folders of weights files" in " ".join(laid_out.err.split())


def test_a_night_of_two_folders_keeps_what_is_on_the_one_that_is_missing(
    diffgraph, tmp_path, monkeypatch
):
    monkeypatch.setattr(  # other tests see to training
        "flows.refresh.is_training_due", lambda *_, **__: (False, "training is not due")
    )
    (tmp_path / "config.toml").write_text("[calibration]\nprompts = 2\n")
    disks = [as_trained(name, tmp_path / f"of_{name}").parent for name in TRAINED]
    folders = [word for disk in disks for word in ("--path", disk)]

    def night(*arguments):
        config = ("--config", tmp_path / "config.toml", "--home", tmp_path / "home")
        return diffgraph("refresh", *arguments, *config, "--json")

    first = night(*folders)
    assert first.code == 0, first.err
    assert len(first.json["discovery"]["new"]) == 2
    disks[1].rename(tmp_path / "unmounted")
    for empty in (False, True):
        if empty:
            disks[1].mkdir()
        told = night(*folders)
        assert told.code == 0, told.err
        found = told.json["discovery"]
        assert (found["retired"], found["unchanged"], found["ready"]) == ([], 1, 2)
        (away,) = found["failed"]
        assert away["what"] == str(disks[1])
        assert "is a disk missing? its experts are kept" in away["reason"]
        assert told.json["build"]["retired"] == []
    disks[1].rmdir()
    (tmp_path / "unmounted").rename(disks[1])
    assert night(*folders).json["discovery"]["unchanged"] == 2

    slip = night("--path", disks[0], "--path", tmp_path / "of_nobody")
    assert slip.code == 1
    assert "of_nobody" in slip.err
