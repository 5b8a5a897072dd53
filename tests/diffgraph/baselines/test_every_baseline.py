"""Every baseline gives a valid plan from any selection; each is what its name says."""

from dataclasses import dataclass

import numpy as np
import pytest

from diffgraph.baselines import BASELINES, Baseline, Random, Single
from diffgraph.errors import SnapshotError
from diffgraph.graph.snapshot import GraphSnapshot


@dataclass(frozen=True)
class Chosen:
    prompt: str
    refs: tuple[str, ...]


@pytest.mark.parametrize("method", BASELINES.values(), ids=BASELINES.keys())
class TestEveryBaseline:
    def test_is_listed_under_its_own_name(self, method: Baseline) -> None:
        assert BASELINES[method.name] is method

    @pytest.mark.parametrize("count", [0, 1, 3, 6])
    def test_plans_chosen_experts_only(
        self, method: Baseline, small_snapshot: GraphSnapshot, count: int
    ) -> None:
        refs = small_snapshot.refs[:count]
        plan = method.plan(Chosen("a cat", refs), small_snapshot)
        assert plan.family == small_snapshot.family
        assert {expert.ref for expert in plan.experts} <= set(refs)
        for expert in plan.experts:
            row = small_snapshot.refs.index(expert.ref)
            assert expert.kind == small_snapshot.kinds[row]
            assert expert.sha256 == small_snapshot.sha256s[row]
        assert all(np.isfinite(value) for value in plan.coefficients().values())

    def test_plans_the_same_again(self, method: Baseline, small_snapshot: GraphSnapshot) -> None:
        chosen = Chosen("a cat", small_snapshot.refs)
        assert method.plan(chosen, small_snapshot).id == method.plan(chosen, small_snapshot).id


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"base"}))
def test_names_an_expert_the_graph_lacks(name: str, small_snapshot: GraphSnapshot) -> None:
    with pytest.raises(SnapshotError, match="folder:gone@1"):
        BASELINES[name].plan(Chosen("a cat", ("folder:gone@1",)), small_snapshot)


def coefficients(name: str, snapshot: GraphSnapshot, refs: tuple[str, ...]) -> list[float]:
    final = BASELINES[name].plan(Chosen("a cat", refs), snapshot).coefficients()
    return [final.get(ref, 0.0) for ref in refs]


def test_base_merges_nothing(small_snapshot: GraphSnapshot) -> None:
    assert (
        BASELINES["base"].plan(Chosen("a cat", small_snapshot.refs), small_snapshot).experts == ()
    )


def test_uniform_shares_one_out_within_a_kind(small_snapshot: GraphSnapshot) -> None:
    shares = coefficients("uniform", small_snapshot, small_snapshot.refs[:5])
    assert shares == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


def test_uniform_strength_uses_each_peft_expert_as_its_page_says(
    small_snapshot: GraphSnapshot,
) -> None:
    found = coefficients("uniform_strength", small_snapshot, small_snapshot.refs)
    assert found == pytest.approx([0.5, 0.5, 0.6, 0.9, 1.2, 0.75])


def test_single_takes_the_best_calibrated_and_offers_each(small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs[1:5]
    means = small_snapshot.edge_gains(refs).mean(axis=(1, 2))
    chosen = Chosen("a cat", refs)
    (expert,) = Single().plan(chosen, small_snapshot).experts
    assert expert.ref == refs[int(np.argmax(means))]
    offered = Single().candidates(chosen, small_snapshot)
    assert [plan.experts[0].ref for plan in offered] == list(refs)
    final = [plan.coefficients()[ref] for plan, ref in zip(offered, refs, strict=True)]
    assert final == pytest.approx([1.0, 0.6, 0.9, 1.2])
    assert [len(plan.experts) for plan in Single().candidates(Chosen("", ()), small_snapshot)] == [
        0
    ]


def test_random_depends_on_the_prompt_and_the_seed(small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs
    plans = [
        Random(seed).plan(Chosen(prompt, refs), small_snapshot)
        for seed in (0, 1)
        for prompt in ("a cat", "a dog")
    ]
    assert len({plan.id for plan in plans}) == 4
    drawn = [expert.coefficient for plan in plans for expert in plan.experts]
    assert min(drawn) >= 0.0
    assert max(drawn) <= 1.0
    assert np.std(drawn) == pytest.approx(12**-0.5, abs=0.1)
