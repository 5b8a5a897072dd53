"""What cannot be meant is refused by a deployment's form and by the flow, whoever starts it."""

import importlib
from pathlib import Path

import pytest
import yaml
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from diffgraph.errors import InputError
from diffgraph.graph.calibration import CalibrationConfig
from diffgraph.planner.training import TrainingConfig
from diffgraph.session.overrides import Overrides

ROOT = Path(__file__).parents[3]
FREE = {"since"}  # a moment: its type is its bound


def deployed() -> dict:
    told = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    entrypoints = [one["entrypoint"].partition(":") for one in told["deployments"]]
    modules = [(file.removesuffix(".py").replace("/", "."), name) for file, _, name in entrypoints]
    return {name: getattr(importlib.import_module(module), name) for module, name in modules}


def whole() -> dict:
    """Every flow that can be asked for something, deployed or not."""
    from flows.build_graph import build
    from flows.cli.demo import demo
    from flows.discover import discover
    from flows.evaluate import evaluate

    return deployed() | {"build": build, "demo": demo, "discover": discover, "evaluate": evaluate}


def kinds(schema: dict) -> list[dict]:
    """Return what a parameter may be, without null."""
    found = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return [kind.get("items", kind) for kind in found]


@pytest.mark.parametrize("name", ["refresh", "train", "batch", "build", "discover", "evaluate"])
def test_every_parameter_has_bounds_that_a_form_shows(name):
    for parameter, schema in parameter_schema(whole()[name]).properties.items():
        for kind in kinds(schema):
            if kind.get("type") == "integer":
                assert {"minimum", "maximum"} <= set(kind), parameter
            elif kind.get("type") == "string" and parameter not in FREE:
                assert "enum" in kind or {"minLength", "maxLength"} <= set(kind), parameter


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        *[("train", {"steps": steps}) for steps in (0, -5, 10**12, "many", 1.5)],
        *[("refresh", {"steps": steps}) for steps in (0, -5)],
        *[("demo", {"steps": steps}) for steps in (0, -5)],
        ("train", {"prompts": 1}),
        ("train", {"prompts": 0}),
        ("refresh", {"training_prompts": 1}),
        ("train", {"seed": -1}),
        ("train", {"seed": 2**64}),
        ("train", {"snapshot": "../../elsewhere"}),
        ("train", {"like": "../champion"}),
        ("train", {"normalisation": "loudest"}),
        ("refresh", {"reference_prompts": 0}),
        ("build", {"images_a_prompt": 0}),
        ("build", {"reference_prompts": -1}),
        ("refresh", {"limit": 0}),
        ("refresh", {"source": "ftp"}),
        ("refresh", {"url": "file:///etc/passwd"}),
        ("refresh", {"family": ""}),
        ("refresh", {"exclude": ["a\0b"]}),
        ("batch", {"prompts": "a\0b.txt", "out": "out"}),
        ("batch", {"prompts": "a.txt", "out": "x" * 5000}),
        ("batch", {"prompts": "a.txt", "out": "out", "limit": -1}),
        ("batch", {"prompts": "a.txt", "out": "out", "column": ""}),
        ("evaluate", {"limit": 0}),
        ("evaluate", {"seeds": [-1]}),
    ],
)
def test_a_flow_refuses_what_cannot_be_meant(name, asked):
    (field,) = [field for field in asked if field not in ("prompts", "out")] or [
        field for field in asked if asked[field] != "out" and asked[field] != "a.txt"
    ]
    flow = whole()[name]
    with pytest.raises(ParameterTypeError, match=field):
        flow.validate_parameters(asked)


def test_what_is_asked_for_is_checked_like_what_a_file_says():
    for value in (0, -5):
        with pytest.raises(InputError, match="steps"):
            Overrides().of(TrainingConfig(), steps=value)
    with pytest.raises(InputError, match="prompts"):
        Overrides(tables={"calibration": {"seeds": 2}}).of(CalibrationConfig(), prompts=0)


def test_what_is_asked_for_wins_over_the_file_and_none_asks_for_nothing():
    file = Overrides(tables={"training": {"steps": 7, "seed": 3}})
    found = file.of(TrainingConfig(), steps=9, seed=None)
    assert (found.steps, found.seed) == (9, 3)
