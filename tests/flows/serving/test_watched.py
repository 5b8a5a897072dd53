"""No flow and no task is made without what all of them need."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import flows
import tasks
from flows.serving.watched import HOOKS
from tasks.policies import LONGEST_NAME, named
from tasks.training import score_rollouts


def members(package, kind) -> dict:
    found = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name != "tasks.tracking.planner_model":  # MLflow's own
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, kind):
                    found[value.name] = value
    return found


def test_every_flow_is_watched():
    from prefect import Flow

    found = members(flows, Flow)
    assert {"refresh", "build", "discover", "train-planner", "batch-generate"} <= set(found)
    for name, flow in found.items():
        assert flow.on_running_hooks == HOOKS["on_running"], name
        assert flow.on_crashed_hooks == HOOKS["on_crashed"], name


def test_no_flow_is_made_another_way():
    """It would tell secrets when it fails, and would not wait for its turn."""
    wrong = [
        file.name
        for file in Path(flows.__file__).parent.rglob("*.py")
        if re.search(r"^from prefect import .*\bflow\b|@prefect\.flow", file.read_text(), re.M)
    ]
    assert wrong == []


def test_a_flow_keeps_its_form_and_its_words():
    from flows.train_planner import train

    assert {"steps", "seed", "like"} <= set(train.parameters.properties)
    assert "promote it if it is better" in train.description


def test_every_task_run_has_a_short_name():
    from prefect import Task

    for name, task in members(tasks, Task).items():
        made = task.task_run_name
        assert made is None or made.__qualname__.startswith(named.__qualname__), name


@pytest.mark.parametrize("count", [1, 64, 5000])
def test_rollouts_are_named_by_their_number(count):
    given = {"plans": ["a plan of thousands of characters" * 100] * count}
    assert score_rollouts.task_run_name(parameters=given) == f"score {count} images"


def test_a_name_is_cut_and_harmless():
    name = named(lambda given: f"discover {given['hub']}")
    assert name(parameters={"hub": "a" * 13_112}).endswith("a…")
    assert len(name(parameters={"hub": "a" * 13_112})) == LONGEST_NAME
    assert "\x1b" not in name(parameters={"hub": "\x1b[2J"})
    assert "hunter2" not in name(parameters={"hub": "http://me:hunter2@hub"})
