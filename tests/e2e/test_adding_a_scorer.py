"""docs/adding-a-scorer.md, word by word: a sixth score, from calibration to the report."""

import pytest

from diffgraph.graph.snapshot import open_snapshot
from diffgraph.homes import family_folder
from diffgraph.planner.planner import Planner
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.session.planners import planners_folder
from tests.diffgraph.extending.packages import files_of, install
from tests.environment import environment

__all__ = ["install"]

SIX = (*SCORE_NAMES, "colours")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.slow
def test_a_sixth_score(diffgraph, home, install, tmp_path):
    from flows.train_planner import train

    place = family_folder(home, "emoji64")
    before = open_snapshot(place)
    install(files_of("adding-a-scorer.md"))
    config, page = tmp_path / "small.toml", tmp_path / "report.html"
    config.write_text(
        "[calibration]\nprompts = 2\n[sampler]\nsteps = 1\n[training]\nprompts = 1\n"
        "[search]\nsamples = 2\n[evaluation]\nseeds = [0]\n"
    )

    def asked(*arguments):
        told = diffgraph(*arguments, "--json")
        assert told.code == 0, told.err
        return told.json

    with environment(DIFFGRAPH_CONFIG=str(config)):
        built = asked("build")
        graph = open_snapshot(place)
        assert built["images"] == (len(before.refs) + 1) * 2
        assert (before.score_names, graph.score_names) == (SCORE_NAMES, SIX)
        (old,) = asked("plan", "a cat, sepia")["plans"]  # who ships reads its own five
        assert old["plan"]["experts"]
        planner = train(steps=1, prompts=24).planner
        assert Planner.load(planners_folder(home, "emoji64") / planner).config.scores == SIX
        methods = f"diffgraph,planner:{planner}"
        rows = asked("evaluate", "--limit", "1", "--methods", methods, "--report", page)
        assert [tuple(row["scores"]) for row in rows["summary"]["methods"]] == [
            ("reward", *SIX),
            ("reward", *SIX),
        ]
        assert "Colours" in page.read_text()
        shown = asked("show", "graph")
        assert tuple(shown["strongest"]) == SIX
        assert "spread between an image" in shown["score_notes"]["colours"]
        assert "colours of diffgraph-colours 1.0" in str(asked("doctor")["checks"])
