import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraph.errors import PlanError
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.rules import merged_parameter
from diffgraph.merging.soups import greedy_soup, uniform_soup


def members(kinds: str) -> list[PlannedExpert]:
    return [
        PlannedExpert(
            ref=f"hub:{place}@1", kind="checkpoint" if kind == "c" else "peft", coefficient=9
        )
        for place, kind in enumerate(kinds)
    ]


def test_a_uniform_soup_is_the_mean_of_models_and_of_deltas() -> None:
    base = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    values = [torch.full((3, 4), float(number)) for number in range(5)]
    updates = {
        f"hub:{place}@1": CheckpointUpdate(value, base) if kind == "c" else DenseUpdate(value)
        for place, (kind, value) in enumerate(zip("ccppp", values, strict=True))
    }
    found = merged_parameter("w", base, updates, uniform_soup("emoji64", members("ccppp")))
    torch.testing.assert_close(found, (values[0] + values[1]) / 2 + sum(values[2:]) / 3)
    plain = uniform_soup("emoji64", members("ccppp"), "members")
    models = [*values[:2], *(base + value for value in values[2:])]
    torch.testing.assert_close(merged_parameter("w", base, updates, plain), sum(models) / 5)
    assert uniform_soup("emoji64", []) == MergePlan(family="emoji64")


def papers_soup(worth: dict[frozenset[str], float], refs: list[str]) -> frozenset[str]:
    """Greedy soup as the paper writes it, on a table of scores."""
    ranked = sorted(refs, key=lambda ref: (-worth[frozenset([ref])], ref))
    soup: list[str] = []
    for ref in ranked:
        if not soup or worth[frozenset([*soup, ref])] > worth[frozenset(soup)]:
            soup.append(ref)
    return frozenset(soup)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), levels=st.integers(2, 50))
def test_a_greedy_soup_is_the_papers(seed: int, count: int, levels: int) -> None:
    experts = members("cpcpp"[:count])
    refs = [expert.ref for expert in experts]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(levels, (2**count,), generator=generator).tolist()
    worth = {
        frozenset(ref for place, ref in enumerate(refs) if number >> place & 1): float(value)
        for number, value in enumerate(draws)
    }

    def score(plan: MergePlan) -> float:
        return worth[frozenset(expert.ref for expert in plan.experts)]

    found = greedy_soup("emoji64", experts, score)
    chosen = frozenset(expert.ref for expert in found.plan.experts)
    assert chosen == papers_soup(worth, refs)
    assert found.score == worth[chosen] >= max(worth[frozenset([ref])] for ref in refs)
    assert {ref for ref, _, kept in found.tried if kept} == chosen
    assert len(found.tried) == count
    shuffled = greedy_soup("emoji64", experts[::-1], score)
    assert shuffled.plan.id == found.plan.id


def test_a_greedy_soup_of_nobody() -> None:
    with pytest.raises(PlanError, match="needs experts"):
        greedy_soup("emoji64", [], lambda plan: 0.0)
