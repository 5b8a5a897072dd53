"""From a prompt to what A1111, ComfyUI, diffusers and Civitai read, as a person goes there."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.comfyui import demand_runnable
from tests.infotext import as_a1111, as_civitai

PROMPT = "night, pencil sketch"
NIGHT, PENCIL = "emojihub:2102@21021", "emojihub:2106@21062"
VEHICLE = "emojihub:1125@11251"
CHOSEN = ("--expert", f"{NIGHT}:0.75", "--expert", f"{PENCIL}:0.5", "--only")


def planned(diffgraph, tmp_path, syntax, *options):
    told = diffgraph("plan", PROMPT, *options, "--syntax", syntax, "--home", tmp_path / "home")
    assert told.code == 0, told.err
    return told.out


def test_an_image_says_what_plan_says_to_a1111(diffgraph, tmp_path):
    text = planned(diffgraph, tmp_path, "a1111", *CHOSEN)
    told = diffgraph(
        "generate", PROMPT, *CHOSEN, "--out", tmp_path, "--home", tmp_path / "home", "--json"
    )
    assert told.code == 0, told.err
    with Image.open(told.json["images"][0]["file"]) as opened:
        assert opened.info["parameters"] == text.strip()
    found = as_a1111(text)
    assert found.prompt.startswith(PROMPT)
    assert found.tags == [("lora", "night", "0.75"), ("lora", "pencil", "0.5")]
    assert found.lora_hashes.keys() == {"night", "pencil"}
    assert as_civitai(text)[2].keys() == {"lora:night", "lora:pencil"}


def test_a_graph_for_comfyui_draws_the_prompt(diffgraph, tmp_path):
    graph = json.loads(planned(diffgraph, tmp_path, "comfyui", *CHOSEN))
    assert len(demand_runnable(graph)) == 1
    loras = [node["inputs"] for node in graph.values() if node["class_type"] == "LoraLoader"]
    assert [(one["lora_name"], one["strength_model"]) for one in loras] == [
        ("night.safetensors", 0.75), ("pencil.safetensors", 0.5)]  # fmt: skip


def test_a_script_of_diffusers_draws_the_same_image(diffgraph, tmp_path, monkeypatch):
    script = planned(diffgraph, tmp_path, "diffusers", *CHOSEN)
    told = diffgraph(
        "generate", PROMPT, *CHOSEN, "--out", tmp_path, "--home", tmp_path / "home", "--json"
    )
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(script, "script", "exec"), {})
    ours, theirs = (
        np.asarray(Image.open(file)).astype(int)
        for file in (told.json["images"][0]["file"], "image.png")
    )
    assert abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("syntax", ["a1111", "diffusers"])
def test_what_a_tool_cannot_say_is_told_in_a_line(diffgraph, tmp_path, syntax):
    told = diffgraph(
        "plan", PROMPT, "--expert", f"{VEHICLE}:0.5", "--syntax", syntax, "--home", tmp_path / "h"
    )
    assert told.code == 1
    assert "mixes checkpoints" in told.err
    assert "diffgraph merge" in told.err
    assert told.out == ""


def test_texts_to_copy_come_one_at_a_time(diffgraph, tmp_path):
    options = ("--syntax", "a1111", "--home", tmp_path / "home")
    told = diffgraph("plan", "night", "snow", *options)
    assert told.code == 2
    assert "one prompt at a time" in told.err
    told = diffgraph("plan", "night", "snow", *options, "--json")
    assert [as_a1111(plan["text"]).prompt[:4] for plan in told.json["plans"]] == ["nigh", "snow"]


def test_a_plan_names_who_is_to_be_credited(diffgraph, tmp_path):
    told = diffgraph("plan", PROMPT, *CHOSEN, "--json", "--home", tmp_path / "home")
    (plan,) = told.json["plans"]
    assert [one["ref"] for one in plan["credits"]] == [NIGHT, PENCIL]
    assert all(one["licence"]["creator"] and one["page"] for one in plan["credits"])
    shown = diffgraph("plan", PROMPT, *CHOSEN, "--home", tmp_path / "home")
    assert plan["debts"]
    assert [line for line in shown.out.splitlines() if line.startswith("owed: ")] == [
        f"owed: {debt}" for debt in plan["debts"]
    ]
    (tmp_path / "plan.json").write_text(json.dumps(told.json))
    again = diffgraph("show", "plan", tmp_path / "plan.json", "--json")
    assert again.json["id"] == plan["plan_id"]
    assert not os.path.lexists(tmp_path / "home")
