"""The contract of every agent in the table."""

import pytest

from diffgraph.agents import AGENTS, Candidate, get_agent
from diffgraph.errors import InputError
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import ExpertRef, Listing


@pytest.mark.parametrize("name", sorted(AGENTS))
class TestEveryAgent:
    def test_says_who_it_is(self, name, access):
        agent = get_agent(name, access=access())
        assert agent.name == name
        assert agent.instruction_version

    def test_describes_a_page(self, name, access):
        page = Listing(ref=ExpertRef.parse("hub:1@2"), name="Neon", description="<p>Glow.</p>")
        card = get_agent(name, access=access()).describe(page)
        assert isinstance(card, ExpertCard)
        assert card.agent == name

    @pytest.mark.parametrize("prompt", ["a cat \ud83d", "a \udcff cat"])
    def test_half_a_character_is_no_prompt(self, name, access, prompt):
        with pytest.raises(InputError, match="half a character"):
            get_agent(name, access=access()).parse(prompt)

    def test_reads_many_pages_together(self, name, access):
        agent = get_agent(name, access=access())
        pages = [Listing(ref=ExpertRef.parse(f"hub:{n}@2"), name=f"Neon {n}") for n in range(3)]
        assert agent.prepare(pages) is None
        assert agent.describe(pages[0]).text

    def test_gives_one_verdict_a_candidate_in_order(self, name, access):
        agent = get_agent(name, access=access())
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
