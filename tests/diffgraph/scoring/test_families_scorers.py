"""The scorers of every family: which there are, and in what order."""

import pytest

from diffgraph.errors import MissingInput, UnknownFamily
from diffgraph.families import FAMILIES, emoji64, get_family
from diffgraph.graph.snapshot import open_snapshot
from diffgraph.scoring import SCORE_NAMES, get_scorers, identity_of


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_names_the_columns_of_the_graph_in_their_order(name):
    named = get_family(name).scorers
    assert tuple(named) == SCORE_NAMES
    assert all(scorer.title for scorer in named.values())


@pytest.mark.parametrize("ask", [get_scorers, identity_of])
class TestWithoutScorers:
    def test_an_unknown_family_has_none(self, ask):
        with pytest.raises(UnknownFamily):
            ask("nobody")

    def test_those_that_nothing_computes_are_named(self, ask):
        with pytest.raises(MissingInput, match=r"family sd15 cannot be scored.* clip_score, image"):
            ask("sd15")


def test_the_graph_that_ships_was_scored_by_the_scorers_that_ship():
    shipped = open_snapshot(get_family("emoji64").assets / "snapshot")
    assert shipped.manifest.scorers == identity_of("emoji64")


@pytest.mark.parametrize("ask", [get_scorers, identity_of])
def test_a_scorer_whose_files_are_not_there_is_named(ask, tmp_path, monkeypatch):
    (tmp_path / "base").symlink_to(emoji64.ASSETS / "base")
    monkeypatch.setattr(emoji64, "ASSETS", tmp_path)
    with pytest.raises(MissingInput, match=r"scorer clip_score: .*config\.json is missing"):
        ask("emoji64")
