import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import CheckpointUpdate, DenseUpdate, HadamardUpdate, LowRankUpdate
from diffgraph.merging.apply import Merger
from diffgraph.merging.plan import MergePlan, PlannedExpert

LINEAR = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
KERNEL = "unet.down_blocks.1.resnets.0.conv1.weight"
BIAS = "unet.conv_in.bias"
TEXT = "text_encoder.encoder.layers.0.mlp.fc1.weight"

per_fixture = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
coefficient = st.floats(-2, 2, allow_nan=False).map(lambda value: round(value, 3))


def make_deltas(base: dict[str, torch.Tensor], seed: int = 0) -> dict[str, Delta]:
    """Return a checkpoint and three adapters of random numbers, of every kind of update."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    def low_rank(name: str, rank: int) -> LowRankUpdate:
        shape = base[name].shape
        return LowRankUpdate(draw(shape[0], rank), draw(rank, shape[1:].numel()), 0.5, shape)

    def whole(name: str) -> CheckpointUpdate:
        return CheckpointUpdate((base[name] + draw(*base[name].shape)).half(), base[name])

    shape = base[LINEAR].shape
    hadamard = HadamardUpdate(
        draw(shape[0], 2), draw(2, shape[1]), draw(shape[0], 2), draw(2, shape[1]), 2.0, shape
    )
    updates = {
        "hub:1@1": {name: whole(name) for name in (LINEAR, KERNEL, BIAS, TEXT)},
        "hub:2@1": {name: low_rank(name, 4) for name in (LINEAR, KERNEL)},
        "hub:3@1": {name: low_rank(name, 2) for name in (LINEAR, TEXT)},
        "hub:4@1": {LINEAR: hadamard, BIAS: DenseUpdate(draw(*base[BIAS].shape))},
        "hub:5@1": {name: whole(name) for name in (LINEAR, KERNEL)},
    }
    return {ref: Delta(items, "test", Coverage()) for ref, items in updates.items()}


@pytest.fixture
def merger(tiny_model: Any) -> Merger:
    return Merger(tiny_model)


def live(merger: Merger) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in merger.model.parameters().items()}


def identical(merger: Merger) -> bool:
    return all(torch.equal(value, merger.base[name]) for name, value in live(merger).items())


def dense_sum(
    merger: Merger, deltas: dict[str, Delta], coefficients: dict[str, float]
) -> dict[str, torch.Tensor]:
    """Return the formula itself, in float64."""
    merged = {name: value.double() for name, value in merger.base.items()}
    for ref, value in coefficients.items():
        for name, update in deltas[ref].updates.items():
            merged[name] = merged[name] + value * update.dense().double()
    return merged


def test_no_experts_and_zero_coefficients_are_the_base(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    merger.apply({"hub:1@1": 1.0, "hub:2@1": 0.7}, deltas)
    assert not identical(merger)
    merger.apply(dict.fromkeys(deltas, 0.0), deltas)
    assert identical(merger)
    merger.apply({"hub:4@1": 1.0}, deltas)
    merger.reset()
    assert identical(merger)


def test_one_checkpoint_at_one_is_that_checkpoint(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    merger.apply({"hub:1@1": 1.0}, deltas)
    for name, update in deltas["hub:1@1"].updates.items():
        assert isinstance(update, CheckpointUpdate)
        torch.testing.assert_close(live(merger)[name], update.value.float(), rtol=0, atol=1e-6)


def test_a_checkpoint_read_against_live_weights_is_still_right(merger: Merger) -> None:
    deltas = make_deltas(dict(merger.model.parameters()))  # which the first merge changes
    expected = make_deltas(merger.base)
    merger.apply({"hub:1@1": 0.5, "hub:5@1": 0.5}, deltas)
    merger.apply({"hub:1@1": 0.5, "hub:5@1": 0.5}, deltas)
    found = live(merger)
    for name, value in dense_sum(merger, expected, {"hub:1@1": 0.5, "hub:5@1": 0.5}).items():
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=1e-5)


@per_fixture
@given(values=st.lists(coefficient, min_size=5, max_size=5), order=st.permutations(range(5)))
def test_a_merge_is_the_formula_in_any_order(
    merger: Merger, values: list[float], order: list[int]
) -> None:
    deltas = make_deltas(merger.base)
    refs = sorted(deltas)
    merger.apply({refs[index]: values[index] for index in order}, deltas)
    shuffled = live(merger)
    merger.apply(dict(zip(refs, values, strict=True)), deltas)
    formula = dense_sum(merger, deltas, dict(zip(refs, values, strict=True)))
    for name, value in live(merger).items():
        assert torch.equal(value, shuffled[name]), name
        torch.testing.assert_close(value.double(), formula[name], rtol=1e-5, atol=1e-5)


def test_merges_are_linear(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    results = []
    for share in (0.0, 0.5, 1.0):
        merger.apply({"hub:2@1": share, "hub:4@1": 1 - share}, deltas)
        results.append(live(merger))
    for name, middle in results[1].items():
        mean = (results[0][name] + results[2][name]) / 2
        torch.testing.assert_close(middle, mean, rtol=0, atol=1e-6)


def test_a_hundred_merges_leave_no_trace(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    generator = torch.Generator().manual_seed(7)
    for _ in range(100):
        values = torch.randn(len(deltas), generator=generator).tolist()
        kept = torch.rand(len(deltas), generator=generator) < 0.5
        merger.apply({r: v for r, v, k in zip(deltas, values, kept, strict=True) if k}, deltas)
    merger.reset()
    assert identical(merger)


def test_the_papers_merge_is_a_mean_of_models_plus_a_mean_of_deltas(merger: Merger) -> None:
    """W = sum of softmax_i W_i over checkpoints + sum of softmax_j delta_j over PEFT experts."""
    deltas = make_deltas(merger.base)
    raw = {"hub:1@1": 0.3, "hub:5@1": -0.4, "hub:2@1": 1.0, "hub:3@1": 0.2, "hub:4@1": -1.0}
    plan = MergePlan(
        family="emoji64",
        normalisation="softmax",
        experts=tuple(
            PlannedExpert(
                ref=ref,
                kind="checkpoint" if ref in ("hub:1@1", "hub:5@1") else "peft",
                coefficient=value,
            )
            for ref, value in raw.items()
        ),
    )
    merger.apply(plan, deltas)
    whole, added = ("hub:1@1", "hub:5@1"), ("hub:2@1", "hub:3@1", "hub:4@1")
    total = sum(math.exp(raw[ref]) for ref in whole)
    parts = sum(math.exp(raw[ref]) for ref in added)
    found = live(merger)
    for name, base in merger.base.items():
        expected = torch.zeros(base.shape, dtype=torch.float64)
        for ref in whole:
            update = deltas[ref].updates.get(name)
            model = update.value if isinstance(update, CheckpointUpdate) else base
            expected += math.exp(raw[ref]) / total * model.double()
        for ref in added:
            if name in deltas[ref].updates:
                dense = deltas[ref].updates[name].dense().double()
                expected += math.exp(raw[ref]) / parts * dense
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_an_expert_without_weights_is_named(merger: Merger) -> None:
    with pytest.raises(PlanError, match="hub:9@1"):
        merger.apply({"hub:9@1": 1.0}, {})
    assert identical(merger)


def test_only_what_changed_is_written(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    assert merger.apply({"hub:1@1": 0.5, "hub:3@1": 1.0}, deltas) == 4
    assert merger.apply({"hub:1@1": 0.5, "hub:3@1": 1.0}, deltas) == 0
    assert merger.apply({"hub:1@1": 0.5, "hub:3@1": 0.9}, deltas) == 2  # LINEAR and TEXT
    assert merger.apply({"hub:1@1": 0.5}, deltas) == 2
    assert merger.apply({"hub:1@1": 0.5, "hub:4@1": 0.1}, deltas) == 2  # LINEAR and BIAS
    expected = dense_sum(merger, deltas, {"hub:1@1": 0.5, "hub:4@1": 0.1})
    for name, value in live(merger).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)
    merger.reset()
    assert identical(merger)


def test_an_expert_whose_layers_change_is_written_layer_by_layer(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    merger.apply({"hub:2@1": 1.0}, deltas)
    part = replace(deltas["hub:2@1"], updates={LINEAR: deltas["hub:2@1"].updates[LINEAR]})
    assert merger.apply({"hub:2@1": 1.0}, {"hub:2@1": part}) == 1  # KERNEL is the base's again
    assert torch.equal(live(merger)[KERNEL], merger.base[KERNEL])
    assert merger.apply({"hub:2@1": 1.0}, deltas) == 1


def test_a_new_expert_under_an_old_name_is_not_taken_for_it(merger: Merger) -> None:
    for seed in range(5):  # each set dies, and its memory may be the next one's
        deltas = make_deltas(merger.base, seed)
        merger.apply({"hub:2@1": 1.0}, deltas)
        expected = dense_sum(merger, deltas, {"hub:2@1": 1.0})
        torch.testing.assert_close(
            live(merger)[LINEAR].double(), expected[LINEAR], rtol=1e-5, atol=1e-5
        )
        del deltas


class Stuck(DenseUpdate):
    """An update that cannot be added."""

    def add_to(self, out: torch.Tensor, coefficient: float = 1.0) -> None:
        raise MemoryError


def test_a_merge_that_fails_halfway_is_made_good_by_the_next(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    broken = {**deltas["hub:1@1"].updates, TEXT: Stuck(torch.zeros_like(merger.base[TEXT]))}
    merger.apply({"hub:2@1": 1.0}, deltas)
    with pytest.raises(MemoryError):
        merger.apply({"hub:9@1": 1.0}, {"hub:9@1": Delta(broken, "test", Coverage())})
    merger.apply({"hub:2@1": 1.0}, deltas)
    expected = dense_sum(merger, deltas, {"hub:2@1": 1.0})
    for name, value in live(merger).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)
    merger.reset()
    assert identical(merger)


def test_other_rules_are_written_whole_and_leave_no_trace(merger: Merger) -> None:
    deltas = make_deltas(merger.base)
    experts = tuple(
        PlannedExpert(ref=f"hub:{number}@1", kind="peft", coefficient=0.5) for number in (2, 3)
    )
    merger.apply({"hub:2@1": 0.5, "hub:3@1": 0.5}, deltas)
    summed = live(merger)[LINEAR]
    ties = MergePlan(family="emoji64", experts=experts, rule="ties")
    assert merger.apply(ties, deltas) == 3
    assert not torch.equal(live(merger)[LINEAR], summed)
    assert merger.apply(ties, deltas) == 3  # nothing is assumed of what a rule made
    assert merger.apply({"hub:2@1": 0.5, "hub:3@1": 0.5}, deltas) == 3
    assert torch.equal(live(merger)[LINEAR], summed)
    merger.apply(ties, deltas)
    merger.reset()
    assert identical(merger)


def test_a_compiled_model_draws_every_merge_without_compiling_again(tiny_model: Any) -> None:
    from torch._dynamo.utils import counters

    merger = Merger(tiny_model)
    deltas = make_deltas(merger.base)
    attention = tiny_model.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    states = torch.randn(1, 16, 104, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        compiled = torch.compile(attention, backend="eager")
        compiled(states)
        before = counters["stats"]["unique_graphs"]
        seen = set()
        for number in range(20):
            merger.apply({"hub:2@1": 0.1 * number, "hub:1@1": 0.5}, deltas)
            found = compiled(states)
            torch.testing.assert_close(found, attention(states))
            seen.add(float(found.sum()))
    assert counters["stats"]["unique_graphs"] == before
    assert len(seen) == 20
