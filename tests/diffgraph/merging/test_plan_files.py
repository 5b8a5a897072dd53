"""A plan is read wherever one is written, and nothing in it is ignored."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from diffgraph.errors import InputError, MissingInput
from diffgraph.generation import as_image, save_png
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.plan_files import ABOUT, METADATA, PROMPT, SEED, read_plan

EXPERT = PlannedExpert(ref="hub:1@2", kind="peft", coefficient=0.5)
PLAN = MergePlan(family="emoji64", experts=(EXPERT,), rule="ties")
TEXT = PLAN.model_dump_json()
TOLD: dict[str, Any] = json.loads(TEXT)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        TOLD,
        {"plan": TOLD},
        {
            "id": PLAN.id,
            "plan": TOLD,
            "coefficients": PLAN.coefficients(),
            "prompt": "",
            "seed": None,
        },
        {"plans": [{"prompt": "a cat", "plan_id": PLAN.id, "plan": TOLD}], "spending": {}},
        {METADATA: TEXT, "diffgraph.version": "1"},
        "\ufeff" + TEXT,
    ],
)
def test_json(tmp_path: Path, content: Any) -> None:
    assert read_plan(write(tmp_path / "plan", content)).plan == PLAN


@pytest.mark.parametrize("name", ["image.png", "image"])
def test_an_image(tmp_path: Path, name: str) -> None:
    save_png(tmp_path / name, as_image(torch.zeros(3, 8, 8), PLAN), PLAN, "a cat", 7)
    assert read_plan(tmp_path / name)[:3] == (PLAN, "a cat", 7)


def edited(path: Path, **texts: str) -> Path:
    """Write an image as another tool leaves it, with some of the texts."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (4, 4)).save(path, "PNG", pnginfo=info)
    return path


def test_an_image_that_another_tool_took_the_rest_from(tmp_path: Path) -> None:
    assert read_plan(edited(tmp_path / "image.png", plan=TEXT))[:3] == (PLAN, "", None)
    path = edited(tmp_path / "image.png", plan=TEXT, seed="-3")
    assert read_plan(path)[:3] == (PLAN, "", -3)


def test_what_other_tools_call_a_prompt_is_none_of_ours(tmp_path: Path) -> None:
    """ComfyUI's `prompt` is its graph: one that was added to an image of ours changes nothing."""
    own = {METADATA: TEXT, PROMPT: "a cat", SEED: "7"}
    path = edited(tmp_path / "image.png", **own, prompt='{"3": {}}', workflow="{}", seed="x")
    assert read_plan(path)[:3] == (PLAN, "a cat", 7)
    save_png(path, as_image(torch.zeros(3, 8, 8), PLAN), PLAN, "a cat", 7, {"parameters": "a cat"})
    with Image.open(path) as opened:
        assert set(opened.info) == {*own, "parameters", "Software"}


@pytest.mark.parametrize("seed", ["", "abc", "1.5", "9" * 5000])
def test_the_seed_of_an_image_is_a_whole_number(tmp_path: Path, seed: str) -> None:
    path = edited(tmp_path / "image.png", plan=TEXT, prompt="a cat", seed=seed)
    with pytest.raises(InputError, match=r"image\.png .*: its seed is no whole number"):
        read_plan(path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.sft", "model"])
def test_a_merged_file(tmp_path: Path, name: str) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / name, {METADATA: TEXT})
    assert read_plan(tmp_path / name).plan == PLAN


def test_a_merged_folder(tmp_path: Path) -> None:
    write(tmp_path / ABOUT, {METADATA: TEXT})
    assert read_plan(tmp_path).plan == PLAN


def test_a_table_of_images_of_one_plan(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b", "c"], "plan": [TEXT, None, TEXT]})
    pq.write_table(table, tmp_path / "results.parquet")
    assert read_plan(tmp_path / "results.parquet").plan == PLAN


def test_of_several_plans_none_is_taken(tmp_path: Path) -> None:
    other = MergePlan(family="emoji64").model_dump_json()
    pq.write_table(pa.table({"plan": [TEXT, other]}), tmp_path / "results.parquet")
    write(tmp_path / "plans.json", {"plans": [{"plan": TOLD}, {"plan": json.loads(other)}]})
    write(tmp_path / "none.json", {"plans": []})
    for name, count in (("results.parquet", 2), ("plans.json", 2), ("none.json", 0)):
        with pytest.raises(InputError, match=f"{name} holds {count} plans"):
            read_plan(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parameter": {"density": 0.3}}, "parameter"),
        ({"blocks": [0.1]}, "blocks"),
        ({"text_encoder": 0.5}, "text_encoder"),
        ({"vae": "other"}, "vae"),
        ({"experts": [{**TOLD["experts"][0], "weight": 1}]}, "experts.0.weight"),
        ({"experts": [{"ref": "hub:1@2", "kind": "peft", "coeficient": 1}]}, "experts.0.coef"),
        ({"parameters": {"densty": 0.3}}, "densty"),
        ({"rule": "magic"}, "rule: Input should be"),
        ({"family": None}, "family: Input should be a valid string"),
    ],
)
def test_an_unknown_or_wrong_field_is_named(tmp_path: Path, changes: Any, field: str) -> None:
    wrong = {**TOLD, **changes}
    path = tmp_path / "image.png"
    for place in (wrong, {"plan": wrong}, {"plans": [{"plan": wrong}]}):
        with pytest.raises(InputError, match=field):
            read_plan(write(tmp_path / "plan.json", place))
    save_file({"x": torch.zeros(2)}, path, {METADATA: json.dumps(wrong)})
    with pytest.raises(InputError, match=field):
        read_plan(path)


@pytest.mark.parametrize(
    ("beside", "field"),
    [
        ({"promt": "a cat"}, "promt: Extra"),
        ({"prompt": 3}, "prompt: Input should be a valid string"),
        ({"seed": "7"}, "seed: Input should be a valid int"),
        ({"seed": 7.5}, "seed: Input should be a valid int"),
        ({"plan_id": "0" * 16}, "plan_id: 0000000000000000 is not that of the plan"),
        ({"id": "another"}, "id: another is not that of the plan"),
        ({"coefficients": {"hub:1@2": 0.9}}, "coefficients: .* is not that of the plan"),
        ({"coefficients": 3}, "coefficients: Input should be a valid dict"),
    ],
)
def test_an_unknown_or_wrong_field_beside_a_plan_is_named(
    tmp_path: Path, beside: Any, field: str
) -> None:
    wrong = {"plan": TOLD, **beside}
    for place in (wrong, {"plans": [wrong]}):
        with pytest.raises(InputError, match=rf"plan\.json holds no merge plan: {field}"):
            read_plan(write(tmp_path / "plan.json", place))
    with pytest.raises(InputError, match="sed: is no field"):
        read_plan(write(tmp_path / "plan.json", {"plans": [{"plan": TOLD}], "sed": 7}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "an object"),
        ("3", "an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"plan":' * 100_000, "nested too deeply"),
        ('{"family":' + "[" * 300 + "]" * 300 + "}", "recursion"),
        (TEXT.replace("0.5", "NaN"), "'coefficient' is no finite"),
        (TEXT.replace("0.5", "1e999"), "'coefficient' is no finite"),
        (TEXT.replace("emoji64", "\\ud800"), "hex escape"),
        (TEXT[:-1] + ',"rule":"linear"}', "'rule' is there twice"),
        ({METADATA: {"family": "emoji64"}}, "no text"),
        ({"plan": None}, "valid dictionary"),
        (" " * (17 << 20), "expected 16777216 at most"),
    ],
)
def test_what_holds_no_plan_says_why(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as told:
        read_plan(write(tmp_path / "plan.json", content))
    assert "plan.json" in str(told.value)
    assert "\n" not in str(told.value)


def test_files_without_a_plan_say_so(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "t.parquet")
    (tmp_path / "half.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    for name, reason in (("m.safetensors", "which plan"), ("t.parquet", "no column"),
                         ("half.parquet", "cannot be read")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            read_plan(tmp_path / name)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("folder", "is missing"),
        ("pipe", "is a pipe"),
        ("no", "'no' is missing"),
    ):
        with pytest.raises(MissingInput, match=reason):
            read_plan(tmp_path / name)
