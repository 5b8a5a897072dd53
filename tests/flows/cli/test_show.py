"""Why an expert is never merged can be looked up, by a person and by a program."""

import json

import pytest

from diffgraph.crawlers.discovery import DiscoveryConfig, discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.experts.library import Library
from diffgraph.families import get_family

COMMERCIAL = {1: "Sell", 2: "{Image,RentCivit}", 3: ["Image", "Rent"], 4: "None"}
"""The three shapes in which the years have said what may be sold."""


@pytest.fixture
def home(tmp_path, write_page):
    """A home that knows the pages of a hub."""
    hub = tmp_path / "hub"
    (hub / "models").mkdir(parents=True)
    (hub / "hub.json").write_text('{"name": "smallhub"}')
    for number, use in COMMERCIAL.items():
        write_page(hub, number, f"Neon {number}", "It glows.", "neon", allowCommercialUse=use)
    write_page(
        hub, 5, "Mine \x1b[31m<b>", "It glows.", "neon",
        allowDerivatives=False, allowNoCredit=False, creator={"username": "ann"},
    )  # fmt: skip
    danger = {
        "downloadUrl": "files/6.safetensors", "pickleScanResult": "Danger",
        "virusScanResult": "Success", "hashes": {"SHA256": "AB" * 32},
    }  # fmt: skip
    write_page(hub, 6, "Trap", "It bites.", "trap", version={"files": [danger]})
    library = Library(tmp_path / "home", bundled=())
    config = DiscoveryConfig(metadata_only=True)
    discover(FolderCrawler(hub), library, get_family("emoji64"), config=config)
    return tmp_path / "home"


def test_the_record_of_each_refusal(diffgraph, home):
    told = diffgraph("show", "experts", "--rejected", "--home", home, "--json")
    assert told.code == 0, told.err
    mine, trap = told.json["experts"]
    assert (mine["expert"], mine["decision"]) == ("smallhub:5@51", "registered_only")
    assert "derivatives" in mine["reason"]
    assert mine["licence"]["allow_derivatives"] is False
    assert "credit ann" in mine["duties"]
    assert mine["page"] == "models/5.json"
    assert (trap["expert"], trap["decision"]) == ("smallhub:6@61", "rejected")
    assert "pickle scan" in trap["reason"]
    assert (trap["pickle_scan"], trap["virus_scan"]) == ("Danger", "Success")
    assert (trap["stated_sha256"], trap["sha256"]) == ("ab" * 32, "")


def test_a_person_reads_why(diffgraph, home):
    told = diffgraph("show", "experts", "--rejected", "--home", home)
    assert told.code == 0, told.err
    assert "its page forbids derivatives" in told.out
    assert "'Danger'" in told.out
    assert told.out.rstrip().endswith("1 registered only, 1 rejected")
    assert "\x1b" not in told.out


def test_all_shapes_of_a_licence_are_recorded(diffgraph, home):
    told = diffgraph("show", "experts", "--home", home, "--json").json["experts"]
    sold = {row["ref"]: row["licence"]["allow_commercial_use"] for row in told}
    assert [sold[f"smallhub:{number}@{number}1"] for number in COMMERCIAL] == [
        ["Sell"], ["Image", "RentCivit"], ["Image", "Rent"], [],
    ]  # fmt: skip


def test_weights_that_are_still_to_come_are_no_refusal(diffgraph, home):
    told = diffgraph("show", "experts", "--rejected", "--home", home, "--json")
    assert not {"smallhub:1@11", "smallhub:4@41"} & {row["expert"] for row in told.json["experts"]}


@pytest.mark.parametrize(("which", "count"), [("rejected", 1), ("peft", 2), ("checkpoint", 0)])
def test_some_of_the_refused(diffgraph, home, which, count):
    told = diffgraph("show", "experts", which, "--rejected", "--home", home, "--json")
    assert len(told.json["experts"]) == count


def test_nobody_was_refused(diffgraph, tmp_path):
    told = diffgraph("show", "experts", "--rejected", "--home", tmp_path / "home")
    assert told.code == 0, told.err
    assert "none was refused" in told.out


def test_only_experts_are_rejected(diffgraph, tmp_path):
    told = diffgraph("show", "graph", "--rejected", "--home", tmp_path)
    assert told.code == 2
    assert "--rejected" in json.dumps(told.err)


def test_a_reader_of_the_graph_is_told_which_scores_are_stand_ins(diffgraph, tmp_path):
    told = diffgraph("show", "graph", "--home", tmp_path)
    assert told.code == 0, told.err
    assert "clip_score: emoji64's own small network, a stand-in for CLIP Score\n" in told.out
    assert told.out.count("a stand-in for") == 5
    found = diffgraph("show", "graph", "--home", tmp_path, "--json").json["score_notes"]
    assert found["hps"].endswith("a stand-in for HPSv2.1")
