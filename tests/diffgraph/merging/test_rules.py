"""Every rule against its formula, written plainly in float64 on whole tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffgraph.errors import PlanError
from diffgraph.experts.updates import (
    CheckpointUpdate,
    DenseUpdate,
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    RenormalisedUpdate,
    Update,
)
from diffgraph.merging.parameters import RULE_PARAMETERS
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.rules import RULES, generator_for, merged_parameter

NAME = "unet.conv_in.weight"
SHAPES = [(6,), (5, 8), (4, 6, 3, 3)]
KINDS = ("checkpoint", "half", "dense", "lora", "loha", "lokr", "dora")

few = settings(deadline=None, max_examples=30)


def make_update(kind: str, base: Tensor, generator: torch.Generator) -> Update:
    """Return an update of a kind, of random numbers."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if kind in ("checkpoint", "half") or base.ndim < 2:
        value = base + 0.3 * draw(*base.shape)
        return CheckpointUpdate(value.half() if kind == "half" else value, base)
    shape, rows, columns = base.shape, base.shape[0], base[0].numel()
    low_rank = LowRankUpdate(draw(rows, 2), draw(2, columns), 0.25, shape)
    if kind == "dense":
        return DenseUpdate(draw(*shape))
    if kind == "loha":
        factors = (draw(rows, 2), draw(2, columns), draw(rows, 3), draw(3, columns))
        return HadamardUpdate(*factors, 0.5, shape)
    if kind == "lokr":
        left, right = draw(1, 2), draw(rows, shape[1] // 2, *shape[2:])
        return KroneckerUpdate(left, right, 0.7, shape)
    if kind == "dora":
        return RenormalisedUpdate(low_rank, draw(rows).abs() + 0.5, 0, base)
    return low_rank


def whole(update: Update) -> Tensor:
    """Return an update in float64; the formats' own tests check it against other libraries."""
    if isinstance(update, LowRankUpdate):
        product = update.scale * update.up.double() @ update.down.double()
        return product.reshape(update.shape)
    if isinstance(update, CheckpointUpdate):
        return update.value.double() - update.base.double()
    return update.dense().double()


@st.composite
def cases(draw: st.DrawFn, checkpoints: int | None = None) -> tuple[Tensor, dict[str, Update]]:
    """A base parameter and one to four experts' updates of it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    base = torch.randn(draw(st.sampled_from(SHAPES)), generator=generator)
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    if checkpoints:
        kinds = ["checkpoint"] * checkpoints + kinds[:2]
    return base, {
        f"hub:{place}@1": make_update(kind, base, generator) for place, kind in enumerate(kinds)
    }


def plan_of(
    rule: str, coefficients: dict[str, float], checkpoints: int = 0, **parameters: float | str
) -> MergePlan:
    experts = (
        PlannedExpert(
            ref=ref, kind="checkpoint" if place < checkpoints else "peft", coefficient=value
        )
        for place, (ref, value) in enumerate(coefficients.items())
    )
    return MergePlan(family="emoji64", experts=tuple(experts), rule=rule, parameters=parameters)


def spread_of(updates: dict[str, Update], seed: int) -> dict[str, float]:
    """Return a coefficient for each expert, away from zero."""
    generator = torch.Generator().manual_seed(seed)
    values = 0.2 + torch.rand(len(updates), generator=generator, dtype=torch.float64)
    return dict(zip(updates, values.tolist(), strict=True))


def assert_is(found: Tensor, expected: Tensor) -> None:
    """1e-5 relative, measured on the parameter: single entries may cancel."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    error = torch.linalg.vector_norm(found.double() - expected)
    assert error <= 1e-5 * torch.linalg.vector_norm(expected), float(error)


def trimmed(delta: Tensor, density: float) -> Tensor:
    """Return a delta with all but its largest entries zero, by sorting."""
    kept = max(1, round(density * delta.numel()))
    order = sorted(range(delta.numel()), key=lambda place: -abs(float(delta.flatten()[place])))
    mask = torch.zeros(delta.numel(), dtype=torch.bool)
    mask[order[:kept]] = True  # sorted() is stable: among equals the first
    return torch.where(mask.reshape(delta.shape), delta, 0.0)


def dropped(delta: Tensor, probability: Tensor | float, plan: MergePlan, ref: str) -> Tensor:
    draws = torch.rand(delta.shape, generator=generator_for(plan.id, ref, NAME))
    return torch.where(draws < probability, delta / probability, 0.0)


def mean_of_the_majority(base: Tensor, deltas: list[Tensor]) -> Tensor:
    """TIES, entry by entry."""
    flat = [delta.flatten().tolist() for delta in deltas]
    merged = []
    for entries in zip(*flat, strict=True):
        total = sum(entries)
        agreeing = [entry for entry in entries if entry * total > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return base.double() + torch.tensor(merged, dtype=torch.float64).reshape(base.shape)


def sparse(rule: str, plan: MergePlan, ref: str, delta: Tensor) -> Tensor:
    """Return the first step of a rule, in float64."""
    density = float(plan.parameters.get("density", 1))
    if rule == "ties":
        return trimmed(delta, density)
    if rule in ("dare", "dare_ties"):
        return dropped(delta, density, plan, ref)
    if rule == "della":
        spread = float(plan.parameters["spread"])
        rows = delta.reshape(1, -1) if delta.ndim < 2 else delta.flatten(1)
        probability = torch.empty(rows.shape)
        for row, values in enumerate(rows):
            order = sorted(range(len(values)), key=lambda place: abs(float(values[place])))
            for rank, place in enumerate(order):
                share = rank / (len(values) - 1)
                probability[row, place] = density - spread / 2 + spread * share
        return dropped(delta, probability.reshape(delta.shape), plan, ref)
    return delta


@few
@given(case=cases(), seed=st.integers(0, 99), factor=st.floats(0.1, 2))
def test_linear_rules_are_their_sum(
    case: tuple[Tensor, dict[str, Update]], seed: int, factor: float
) -> None:
    base, updates = case
    given = spread_of(updates, seed)
    expected = base.double() + sum(given[ref] * whole(item) for ref, item in updates.items())
    assert_is(merged_parameter(NAME, base, updates, plan_of("linear", given)), expected)
    plan = plan_of("task_arithmetic", given, **{"lambda": factor})
    found = merged_parameter(NAME, base, updates, plan)
    assert_is(found, base.double() + factor * (expected - base.double()))


@few
@given(
    case=cases(),
    seed=st.integers(0, 99),
    density=st.floats(0.15, 0.85),
    rule=st.sampled_from(["ties", "dare", "dare_ties", "della"]),
)
def test_sparse_rules_are_their_formula(
    case: tuple[Tensor, dict[str, Update]], seed: int, density: float, rule: str
) -> None:
    base, updates = case
    given = spread_of(updates, seed)
    plan = plan_of(rule, given, density=density)
    # an update's own rounding may reorder or cancel entries: the steps begin with its float32
    deltas = {ref: item.dense().double() for ref, item in updates.items()}
    kept = [given[ref] * sparse(rule, plan, ref, delta) for ref, delta in deltas.items()]
    expected = base.double() + sum(kept)
    if rule != "dare":
        expected = mean_of_the_majority(base, kept)
    assert_is(merged_parameter(NAME, base, updates, plan), expected)


@few
@given(case=cases(checkpoints=2), seed=st.integers(0, 99))
def test_slerp_is_shoemakes_formula(case: tuple[Tensor, dict[str, Update]], seed: int) -> None:
    base, updates = case
    given = spread_of(updates, seed)
    first, second, *others = given
    ends = [base.double() + whole(updates[ref]) for ref in (first, second)]
    share = given[second] / (given[first] + given[second])
    cosine = float((ends[0] * ends[1]).sum() / ends[0].norm() / ends[1].norm())
    angle = math.acos(min(1.0, cosine))
    expected = sum(
        math.sin(part * angle) / math.sin(angle) * end
        for part, end in zip((1 - share, share), ends, strict=True)
    )
    expected = expected + sum(given[ref] * whole(updates[ref]) for ref in others)
    assert_is(merged_parameter(NAME, base, updates, plan_of("slerp", given, 2)), expected)


def test_slerp_keeps_lengths_and_ends() -> None:
    base = torch.zeros(2)
    ends = {"hub:0@1": torch.tensor([1.0, 0.0]), "hub:1@1": torch.tensor([0.0, 1.0])}
    updates = {ref: CheckpointUpdate(value, base) for ref, value in ends.items()}
    middle = merged_parameter(NAME, base, updates, plan_of("slerp", dict.fromkeys(ends, 3.0), 2))
    torch.testing.assert_close(middle, torch.full((2,), math.sqrt(0.5)))
    for ref, value in ends.items():
        only = {other: float(other == ref) for other in ends}
        assert torch.equal(merged_parameter(NAME, base, updates, plan_of("slerp", only, 2)), value)
    opposite = {**updates, "hub:1@1": CheckpointUpdate(-ends["hub:0@1"], base)}
    line = merged_parameter(NAME, base, opposite, plan_of("slerp", dict.fromkeys(ends, 1.0), 2))
    assert torch.equal(line, base)
    with pytest.raises(PlanError, match=r"hub:0@1 and hub:1@1"):
        merged_parameter(NAME, base, updates, plan_of("slerp", dict.fromkeys(ends, 0.0), 2))


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999])
def test_trimming_keeps_exactly_its_share_even_among_equals(density: float) -> None:
    equal = DenseUpdate(torch.ones(1000).half())
    base = torch.zeros(1000)
    merged = merged_parameter(
        NAME, base, {"hub:0@1": equal}, plan_of("ties", {"hub:0@1": 1.0}, density=density)
    )
    assert int((merged != 0).sum()) == round(density * 1000)


@pytest.mark.parametrize("rule", ["dare", "della"])
def test_dropping_keeps_the_mean_and_the_share(rule: str) -> None:
    values = torch.rand(100, 1000, generator=torch.Generator().manual_seed(0)) + 0.5
    plan = plan_of(rule, {"hub:0@1": 1.0}, density=0.3)
    base = torch.zeros_like(values)
    merged = merged_parameter(NAME, base, {"hub:0@1": DenseUpdate(values)}, plan)
    assert math.isclose(float(merged.mean()), float(values.mean()), rel_tol=0.02)
    assert math.isclose(float((merged != 0).float().mean()), 0.3, rel_tol=0.02)


def test_della_prefers_what_is_large() -> None:
    values = torch.arange(1.0, 1001.0).expand(100, 1000)
    plan = plan_of("della", {"hub:0@1": 1.0}, density=0.5, spread=0.6)
    merged = merged_parameter(NAME, torch.zeros(100, 1000), {"hub:0@1": DenseUpdate(values)}, plan)
    kept = (merged != 0).float().mean(dim=0)
    assert float(kept[:100].mean()) < 0.3
    assert float(kept[-100:].mean()) > 0.7


def test_random_choices_belong_to_the_plan_the_expert_and_the_parameter() -> None:
    base, ones = torch.zeros(4096), DenseUpdate(torch.ones(4096))
    coefficients = {"hub:0@1": 1.0}
    plan = plan_of("dare", coefficients, density=0.5)
    first = merged_parameter(NAME, base, {"hub:0@1": ones}, plan)
    assert torch.equal(first, merged_parameter(NAME, base, {"hub:0@1": ones}, plan))
    others = [
        merged_parameter("unet.conv_out.weight", base, {"hub:0@1": ones}, plan),
        merged_parameter(NAME, base, {"hub:1@1": ones}, plan_of("dare", {"hub:1@1": 1.0})),
        merged_parameter(NAME, base, {"hub:0@1": ones}, plan_of("dare", {"hub:0@1": 0.9})),
    ]
    assert not any(torch.equal(first != 0, other != 0) for other in others)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"slerp", "k_lora"}))
def test_no_part_or_no_coefficient_is_the_base(rule: str) -> None:
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    update = DenseUpdate(torch.ones(4, 4))
    plan = plan_of(rule, {"hub:0@1": 0.0, "hub:1@1": 1.0})
    assert torch.equal(merged_parameter(NAME, base, {}, plan), base)
    assert torch.equal(merged_parameter(NAME, base, {"hub:0@1": update}, plan), base)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"k_lora"}))
def test_what_is_given_stays_as_it_was(rule: str) -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(6, 8, generator=generator)
    updates = {
        f"hub:{place}@1": make_update(kind, base, generator)
        for place, kind in enumerate(("checkpoint", "checkpoint", "dense", "lora"))
    }
    kept = base.clone(), {ref: item.dense().clone() for ref, item in updates.items()}
    merged_parameter(NAME, base, updates, plan_of(rule, dict.fromkeys(updates, 0.5), 2))
    assert torch.equal(base, kept[0])
    assert all(torch.equal(item.dense(), kept[1][ref]) for ref, item in updates.items())


def test_half_precision_bases_are_summed_in_single() -> None:
    base = torch.randn(8, 8, generator=torch.Generator().manual_seed(3)).half()
    update = DenseUpdate(torch.full((8, 8), 1e-4))
    plan = plan_of("linear", {"hub:0@1": 1.0})
    found = merged_parameter(NAME, base, {"hub:0@1": update}, plan)
    assert_is(found, base.double() + 1e-4)


def test_every_rule_is_known_by_name_and_by_deed() -> None:
    assert set(RULES) == set(RULE_PARAMETERS)
