"""docs/adding-a-scorer.md, word by word: a sixth score, from calibration to the report."""

import pytest

from diffgraph.graph.snapshot import open_snapshot
from diffgraph.homes import family_folder
from diffgraph.planner.planner import Planner
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.session.planners import planners_folder
from tests.diffgraph.extending.packages import files_of, install

__all__ = ["install"]

SIX = (*SCORE_NAMES, "colours")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.slow
def test_a_sixth_score(diffgraph, home, install, tmp_path):
    place = family_folder(home, "emoji64")
    before = open_snapshot(place)
    install(files_of("adding-a-scorer.md"))
    config = tmp_path / "small.toml"
    config.write_text(
        "[calibration]\nprompts = 2\n[sampler]\nsteps = 2\n[training]\nsteps = 1\nprompts = 1\n"
        "checkpoint_every = 1\nvalidate_every = 1\n[search]\nsamples = 2\n"
        "[evaluation]\nseeds = [0]\n"
    )

    def asked(*arguments):
        told = diffgraph(*arguments, "--config", config, "--json")
        assert told.code == 0, told.err
        return told.json

    built = asked("build")
    assert built["images"] == (len(before.refs) + 1) * 2
    graph = open_snapshot(place)
    assert (before.score_names, graph.score_names) == (SCORE_NAMES, SIX)
    old = asked("plan", "a cat, sepia")  # the planner that ships reads its own five
    assert old["plans"][0]["plan"]["experts"]
    planner = asked("train")["planner"]
    assert Planner.load(planners_folder(home, "emoji64") / planner).config.scores == SIX
    methods = f"base,diffgraph,planner:{planner}"
    page = tmp_path / "report.html"
    compared = asked("evaluate", "--limit", "1", "--methods", methods, "--report", page)
    assert all(tuple(row["scores"]) == ("reward", *SIX) for row in compared["summary"]["methods"])
    assert "Colours" in page.read_text()
    shown = asked("show", "graph")
    assert tuple(shown["strongest"]) == SIX
    assert "spread between an image" in shown["score_notes"]["colours"]
    found = diffgraph("doctor", "--json").json["checks"]
    assert "colours of diffgraph-colours 1.0" in str(found)
