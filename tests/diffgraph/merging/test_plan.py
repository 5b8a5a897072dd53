import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diffgraph.merging.plan import STRONGEST, MergePlan, PlannedExpert

weights = st.lists(st.floats(0, 1), min_size=1, max_size=6)
any_weights = st.lists(st.floats(-30, 30), min_size=1, max_size=6)


def planned(number: int, kind: str, coefficient: float) -> PlannedExpert:
    return PlannedExpert(ref=f"hub:{kind}{number}@1", kind=kind, coefficient=coefficient)


def plan_of(
    checkpoints: list[float], adapters: list[float], normalisation: str = "none"
) -> MergePlan:
    experts = [planned(n, "checkpoint", value) for n, value in enumerate(checkpoints)]
    experts += [planned(n, "peft", value) for n, value in enumerate(adapters)]
    return MergePlan(family="emoji64", experts=tuple(experts), normalisation=normalisation)


def of_kind(plan: MergePlan, kind: str) -> list[float]:
    return [value for ref, value in plan.coefficients().items() if f":{kind}" in ref]


@given(checkpoints=any_weights, adapters=any_weights)
def test_softmax_sums_to_one_within_a_kind(checkpoints: list[float], adapters: list[float]) -> None:
    plan = plan_of(checkpoints, adapters, "softmax")
    assert math.isclose(sum(of_kind(plan, "checkpoint")), 1)
    assert math.isclose(sum(of_kind(plan, "peft")), 1)
    assert all(value >= 0 for value in plan.coefficients().values())


@given(checkpoints=weights, adapters=weights)
def test_strength_never_makes_more_than_one_model_of_checkpoints(
    checkpoints: list[float], adapters: list[float]
) -> None:
    plan = plan_of(checkpoints, adapters, "strength")
    shares = of_kind(plan, "checkpoint")
    assert sum(shares) <= 1 + 1e-9
    if STRONGEST * sum(checkpoints) <= 1:
        assert shares == [STRONGEST * value for value in checkpoints]
    assert of_kind(plan, "peft") == [STRONGEST * value for value in adapters]


@given(order=st.permutations(range(6)), normalisation=st.sampled_from(["softmax", "strength"]))
def test_the_order_of_experts_changes_nothing(order: list[int], normalisation: str) -> None:
    plan = plan_of([0.1, 0.7, 0.3], [0.9, 0.2, 0.4], normalisation)
    shuffled = plan.model_copy(update={"experts": tuple(plan.experts[index] for index in order)})
    assert shuffled.id == plan.id
    assert shuffled.coefficients() == plan.coefficients()  # to the last bit


def test_a_plan_is_named_by_its_content() -> None:
    plan = plan_of([0.5], [0.25])
    assert MergePlan.model_validate_json(plan.model_dump_json()) == plan
    assert MergePlan.model_validate_json(plan.model_dump_json()).id == plan.id
    others = [plan_of([0.5], [0.26]), plan_of([0.5], []), plan_of([0.5], [0.25], "softmax")]
    assert len({plan.id, *(other.id for other in others)}) == 4


def test_no_experts_is_a_plan() -> None:
    assert MergePlan(family="emoji64").coefficients() == {}
    assert MergePlan(family="emoji64", normalisation="softmax").coefficients() == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_coefficient_is_a_number(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        planned(1, "peft", value)


@pytest.mark.parametrize("value", [1e19, -1e30, 1e300])
def test_a_coefficient_fits_the_numbers_that_are_merged(value: float) -> None:
    with pytest.raises(ValidationError, match=r"within ±1e\+18"):
        planned(1, "peft", value)


def test_an_expert_is_named_once_and_well() -> None:
    with pytest.raises(ValidationError, match="named twice: hub:peft1@1"):
        MergePlan(family="emoji64", experts=(planned(1, "peft", 1), planned(1, "peft", 2)))
    with pytest.raises(ValidationError, match="not an expert reference"):
        PlannedExpert(ref="../../etc/passwd", kind="peft", coefficient=1)


def ruled(
    rule: str, checkpoints: int = 0, adapters: int = 2, **parameters: float | str
) -> MergePlan:
    experts = [planned(n, "peft", 0.5) for n in range(2)]
    return MergePlan(family="emoji64", experts=tuple(experts), rule=rule, parameters=parameters)


def test_plans_made_before_there_were_rules_keep_their_ids() -> None:
    kept = (
        '{"family":"emoji64","experts":[{"ref":"a:1@1","kind":"peft","coefficient":1.0,"sha256":""}]'
        ',"rule":"linear","normalisation":"none"}'
    )
    plan = MergePlan.model_validate_json(kept)
    assert plan.model_dump_json() == kept
    assert plan.id == "e2ef825363c3e972"


def test_a_plan_names_its_rule_and_all_of_its_parameters() -> None:
    plan = ruled("della", density=0.4)
    assert plan.parameters == {"density": 0.4, "spread": 0.2}
    assert MergePlan.model_validate_json(plan.model_dump_json()) == plan
    assert MergePlan.model_validate_json(plan.model_dump_json()).id == plan.id
    assert ruled("della", spread=0.2, density=0.4).id == plan.id
    assert len({plan.id, ruled("della").id, ruled("ties").id, ruled("dare").id}) == 4
    assert not plan.is_linear


def test_task_arithmetic_multiplies_all_coefficients() -> None:
    plan = ruled("task_arithmetic", **{"lambda": 0.3})
    assert plan.is_linear
    assert plan.coefficients() == {"hub:peft0@1": 0.15, "hub:peft1@1": 0.15}


@pytest.mark.parametrize(
    ("rule", "parameters", "says"),
    [
        ("magic", {}, "'linear', 'task_arithmetic'"),
        (["ties"], {}, "rule"),
        ("ties", {"density": 0}, r"density must be in \(0, 1\]"),
        ("ties", {"density": math.nan}, "density"),
        ("ties", {"density": True}, "a number, not True"),
        ("dare", {"density": "half"}, "a number, not 'half'"),
        ("ties", {"densty": 0.5}, "no parameter densty; it takes density"),
        ("linear", {"density": 0.5}, "it takes none"),
        ("della", {"density": 0.9, "spread": 0.5}, "every entry"),
        ("slerp", {}, "two checkpoints, not 0"),
        ("k_lora", {}, "needs content"),
        ("k_lora", {"content": "hub:peft9@1"}, "hub:peft9@1 is not one of"),
        ("k_lora", {"content": 3}, "must be the reference"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_told(rule: str, parameters: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ruled(rule, **parameters)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rule": "slerp"}, "slerp takes two checkpoints"),
        ({"rule": "magic"}, "rule"),
        ({"normalisation": "most"}, "normalisation"),
        ({"parameters": {"density": 0.5}}, "density"),
        ({"seed": 1}, "seed"),
        ({"experts": (planned(1, "peft", 0.5),) * 2}, "named twice"),
    ],
)
def test_a_copy_with_changes_is_checked_like_any_other_plan(
    change: dict[str, object], why: str
) -> None:
    plan = plan_of([0.5], [0.25])
    with pytest.raises(ValidationError, match=why):
        plan.model_copy(update=change)
    assert plan.model_copy() == plan
    assert plan.model_copy(update={"rule": "ties", "parameters": {"density": 0.5}}).rule == "ties"


@pytest.mark.parametrize("change", [{"coefficient": math.nan}, {"ref": "nobody"}, {"kind": "x"}])
def test_a_copy_of_an_expert_is_checked_too(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        planned(1, "peft", 0.5).model_copy(update=change)


class TestStrengthsThatAPersonGave:
    def planned(self, normalisation="strength", **rule):
        experts = [
            PlannedExpert(ref=f"hub:{ref}@1", kind=kind, coefficient=value)
            for ref, kind, value in (
                ("a", "checkpoint", 0.5), ("b", "checkpoint", 0.4),
                ("x", "peft", 0.5), ("y", "peft", 0.7), ("z", "peft", 0.9),
            )
        ]  # fmt: skip
        plan = {"family": "f", "experts": tuple(experts), "normalisation": normalisation}
        return MergePlan(**plan, **rule)

    @pytest.mark.parametrize("normalisation", ["strength", "softmax", "none"])
    @pytest.mark.parametrize("value", [0.8, 0.1, 1 / 3, 0.0, -0.7, 3.3])
    def test_are_the_final_coefficients_to_the_last_bit(self, normalisation, value):
        plan = self.planned(normalisation).with_strengths({"hub:x@1": value, "hub:a@1": 0.3})
        final = plan.coefficients()
        assert (final["hub:x@1"], final["hub:a@1"]) == (value, 0.3)
        assert MergePlan.model_validate_json(plan.model_dump_json()).coefficients() == final

    def test_leave_other_peft_experts_theirs(self):
        before, after = self.planned(), self.planned().with_strengths({"hub:x@1": 0.8})
        assert after.coefficients() == {**before.coefficients(), "hub:x@1": 0.8}

    def test_of_checkpoints_leave_the_others_what_is_left_of_one_model(self):
        final = self.planned().with_strengths({"hub:a@1": 0.75}).coefficients()
        assert final["hub:a@1"] + final["hub:b@1"] == pytest.approx(1.0)
        small = self.planned("none").with_strengths({"hub:a@1": 0.1}).coefficients()
        assert small["hub:b@1"] == 0.4
        over = self.planned().with_strengths({"hub:a@1": 1.4}).coefficients()
        assert over["hub:b@1"] == 0.0

    def test_leave_the_others_of_a_softmax_the_rest_of_one_in_their_proportions(self):
        before = self.planned("softmax").coefficients()
        after = self.planned("softmax").with_strengths({"hub:x@1": 0.1}).coefficients()
        assert after["hub:y@1"] + after["hub:z@1"] == pytest.approx(0.9)
        ratio = before["hub:y@1"] / before["hub:z@1"]
        assert after["hub:y@1"] / after["hub:z@1"] == pytest.approx(ratio)

    def test_are_final_under_a_rule_that_scales_the_sum(self):
        plan = self.planned("none", rule="task_arithmetic", parameters={"lambda": 0.7})
        final = plan.with_strengths({"hub:x@1": 0.8}).coefficients()
        assert final["hub:x@1"] == pytest.approx(0.8, abs=1e-15)

    def test_of_nobody_in_it_change_nothing(self):
        plan = self.planned()
        assert plan.with_strengths({}) is plan
        assert plan.with_strengths({"hub:other@1": 1.0}) is plan
