"""The contract of every agent in the table."""

import pytest

from diffgraph.agents import AGENTS, Candidate, get_agent
from diffgraph.errors import InputError
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import ExpertRef, Listing


@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"claude"}))
class TestEveryAgent:
    def test_says_who_it_is(self, name):
        agent = get_agent(name)
        assert agent.name == name
        assert agent.instruction_version

    def test_describes_a_page(self, name):
        page = Listing(ref=ExpertRef.parse("hub:1@2"), name="Neon", description="<p>Glow.</p>")
        card = get_agent(name).describe(page)
        assert isinstance(card, ExpertCard)
        assert card.agent == name

    def test_gives_one_verdict_a_candidate_in_order(self, name):
        agent = get_agent(name)
        request = agent.parse("a cat at night")
        candidates = [
            Candidate(ref=f"hub:{n}@1", kind="peft", name=t, text=t, query="night", similarity=s)
            for n, (t, s) in enumerate([("pizza", 0.1), ("night", 0.9), ("moon night", 0.8)])
        ]
        verdicts = agent.review(request, candidates)
        assert [verdict.ref for verdict in verdicts] == [c.ref for c in candidates]
        assert all(verdict.reason for verdict in verdicts)
        assert agent.review(request, []) == ()


def test_an_unknown_agent_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'nobody'.*offline"):
        get_agent("nobody")
