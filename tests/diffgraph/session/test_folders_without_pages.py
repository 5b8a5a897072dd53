"""In a folder without any page, experts are found by file names and by what trainers wrote."""

import pytest

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.graph.registration import Cards
from diffgraph.session import Session
from diffgraph.session.registering import register_library
from tests.benchmarks.selection_without_pages import FAMILY, header, write_folder


@pytest.fixture
def session(tmp_path) -> Session:
    library, family = Library(tmp_path / "home", bundled=()), get_family(FAMILY)
    loras = write_folder(tmp_path / "loras", "s[ent]*")  # sepia, snow, stained glass, …
    discover(FolderOfFiles(loras, family, library), library, family)
    register_library(tmp_path / "home", FAMILY)
    return Session(tmp_path / "home", FAMILY, "cpu")


def test_those_are_chosen_whose_training_was_of_what_is_asked_for(session, diffgraph):
    chosen = {
        prompt: {choice.name for choice in session.select(prompt).experts}
        for prompt in ("a fox, snowing", "a boat, mosaic", "a cup, striped background, sepia")
    }
    assert chosen == {
        "a fox, snowing": {"snow"},
        "a boat, mosaic": {"stained_glass"},
        "a cup, striped background, sepia": {"stripes", "sepia"},
    }

    expert = next(one for one in Library(session.home).experts() if one.name == "snow")
    card = Cards(session.home / "cards").find(expert.page_sha256, session.agent)
    assert card.note == "Known by its file name and training tags only"
    told = diffgraph("show", "expert", expert.ref, "--home", session.home)
    assert "known by its file name and training tags only" in told.out
    assert "not calibrated yet: merged at 1" in told.out


def test_what_a_picture_happened_to_show_is_no_skill(session):
    assert '"owl"' in header("snow")["ss_tag_frequency"]  # of some pictures
    cards = dict(zip(session.graph.names, session.graph.texts, strict=True))
    assert "snowflakes" in cards["snow"]
    assert "owl" not in cards["snow"]
