"""The node for ComfyUI, with a stand-in for what it calls there."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffgraph.errors import PlanError
from diffgraph.generation import as_image, save_png
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.session import Session
from tests.comfyui import Patcher, demand_node, modules

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
NAME = "DiffgraphChooseExperts"
CAR = "a car at night, pencil sketch"  # for which a checkpoint would be chosen, too
NIGHT, PENCIL, VEHICLE = "emojihub:2102@21021", "emojihub:2106@21062", "emojihub:1125@11251"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The folder as ComfyUI loads it from `custom_nodes`."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    name = "custom_nodes_diffgraph"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def node(package: ModuleType) -> Any:
    return package.NODE_CLASS_MAPPINGS[NAME]()


def test_comfyui_takes_it_in(package: ModuleType) -> None:
    assert package.NODE_DISPLAY_NAME_MAPPINGS.keys() == package.NODE_CLASS_MAPPINGS.keys()
    kind = package.NODE_CLASS_MAPPINGS[NAME]
    demand_node(kind)
    assert {"sd15", "flux"} <= set(kind.INPUT_TYPES()["required"]["family"][0])


def test_the_loras_of_a_prompt_are_applied(node: Any, tmp_path: Path) -> None:
    model, clip = Patcher(), Patcher()
    written = f"{CAR}\nNegative prompt: blurry"
    patched, encoder, text, negative, reasons = node.choose(
        model, clip, written, "emoji64", str(tmp_path)
    )
    session = Session(tmp_path, "emoji64", "cpu")
    applied = [(session.experts.get(ref), strength) for ref, strength in expected(tmp_path)]
    for found in (patched.patches, encoder.patches):
        assert [strength for _, strength in found] == [strength for _, strength in applied]
        for (tensors, _), (expert, _) in zip(found, applied, strict=True):
            assert tensors.keys() == load_file(session.experts.path_of(expert.sha256)).keys()
    assert model.patches == clip.patches == ()
    assert "night" in text
    assert "blurry" not in text
    assert negative == "blurry"
    assert NIGHT in reasons
    assert "owed: " in reasons


def expected(home: Path) -> list[tuple[str, float]]:
    """What the plan would be without the checkpoint."""
    session = Session(home, "emoji64", "cpu")
    nodes = session.graph.nodes.to_pylist()
    whole = [row["ref"] for row in nodes if row["kind"] == "checkpoint"]
    plan = session.plan(CAR, without=whole)
    assert VEHICLE in session.plan(CAR).coefficients()
    assert plan.coefficients().keys() == {NIGHT, PENCIL}
    return sorted(plan.coefficients().items())


def test_what_is_loaded_is_kept_as_long_as_it_is_used(node: Any, tmp_path: Path) -> None:
    node.choose(Patcher(), Patcher(), "night, pencil sketch", "emoji64", str(tmp_path))
    first = dict(node.loaded)
    node.choose(Patcher(), Patcher(), "night", "emoji64", str(tmp_path))
    assert len(first) == 2
    ((path, tensors),) = node.loaded.items()
    assert tensors is first[path]


def test_a_tag_in_the_prompt_is_obeyed(node: Any, tmp_path: Path) -> None:
    written = "a car <lora:pencil:0.4>"
    patched, _, text, *_ = node.choose(Patcher(), None, written, "emoji64", str(tmp_path))
    assert 0.4 in [strength for _, strength in patched.patches]
    assert "<lora" not in text


@pytest.mark.parametrize(
    ("kind", "rule", "why"),
    [("peft", "ties", r"the rule ties .* `diffgraph merge`"),
     ("checkpoint", "linear", r"merges emojihub:1125@11251, a whole model, .* `diffgraph merge`")],
)  # fmt: skip
def test_a_plan_that_is_no_chain_of_loras_is_refused(
    node: Any, tmp_path: Path, kind: Any, rule: Any, why: str
) -> None:
    ref = VEHICLE if kind == "checkpoint" else NIGHT
    expert = PlannedExpert(ref=ref, kind=kind, coefficient=0.5)
    plan = MergePlan(family="emoji64", experts=(expert,), rule=rule)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    with pytest.raises(PlanError, match=why):
        node.choose(
            Patcher(), Patcher(), CAR, "emoji64", str(tmp_path), str(tmp_path / "plan.json")
        )


def test_a_plan_of_ours_is_used_as_it_is(node: Any, package: ModuleType, tmp_path: Path) -> None:
    expert = PlannedExpert(ref=NIGHT, kind="peft", coefficient=-0.5)
    plan = MergePlan(family="emoji64", experts=(expert,))
    file = tmp_path / "image.png"
    save_png(file, as_image(torch.zeros(3, 8, 8), plan), plan, "a cat", 1)
    given = {"family": "emoji64", "home": str(tmp_path), "plan": str(file)}
    patched, _, text, _, reasons = node.choose(Patcher(), Patcher(), "a car", **given)
    assert [strength for _, strength in patched.patches] == [-0.5]
    assert "car" in text
    assert f"as planned in {file}" in reasons
    assert package.NODE_CLASS_MAPPINGS[NAME].IS_CHANGED(prompt="a car", **given) == plan.id


def test_it_runs_again_when_the_graph_changes_and_not_for_a_seed(
    package: ModuleType, tmp_path: Path
) -> None:
    kind = package.NODE_CLASS_MAPPINGS[NAME]
    told = kind.IS_CHANGED(prompt=CAR, family="emoji64", home=str(tmp_path))
    assert told == kind.IS_CHANGED(prompt=CAR, family="emoji64", home=str(tmp_path), model=None)
    session = Session(tmp_path, "emoji64", "cpu")
    assert told == f"{session.graph.id} {session.planner_id}"
