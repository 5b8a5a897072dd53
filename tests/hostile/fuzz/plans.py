"""Merge plans that somebody else wrote, as JSON or in an image."""

import io
import json
import math
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.errors import DiffgraphError
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.plan_files import read_plan
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import changed, mangled, texts, to_json

PLAN = {
    "family": "emoji64",
    "experts": [
        {"ref": "hub:1@1", "kind": "peft", "coefficient": 0.5, "sha256": "ab" * 32},
        {"ref": "hub:2@1", "kind": "checkpoint", "coefficient": 1.0},
    ],
    "rule": "ties",
    "normalisation": "none",
    "parameters": {"density": 0.5},
}
PRINTED = {"plans": [{"prompt": "a cat", "plan": PLAN}]}

documents = st.one_of(
    changed(PLAN).map(to_json),
    changed(PRINTED).map(to_json),
    mangled(to_json(PLAN)),
)
"""Texts that are nearly a plan."""


def kept_or_refused(text: bytes, folder: Path) -> None:
    """A plan is finite and the same once written and read again; or it is refused in a line."""
    path = folder / "plan.json"
    path.write_bytes(text)
    _judge(path, text)


def _judge(path: Path, text: bytes) -> None:
    try:
        plan = read_plan(path).plan
    except DiffgraphError as error:
        demand_a_line(error)
        return
    again = MergePlan.model_validate_json(plan.model_dump_json())
    assert again.id == plan.id
    assert all(math.isfinite(value) for value in plan.coefficients().values())
    given = json.loads(text)
    while "plans" in given or "plan" in given:
        given = given["plans"][0] if isinstance(given.get("plans"), list) else given["plan"]
    assert not given.keys() - MergePlan.model_fields.keys(), "a field that was ignored"


@st.composite
def _images(draw: st.DrawFn) -> bytes:
    info = PngInfo()
    before = draw(st.sampled_from(["", "diffgraph."]))
    for name in draw(st.sets(st.sampled_from(["prompt", "seed", "plan"]), min_size=2)):
        text = {
            "prompt": texts,
            "seed": st.just("7") | texts,
            "plan": changed(PLAN).map(to_json).map(bytes.decode),
        }[name]
        info.add_itxt(before + name, draw(text).encode("utf-8", "replace").decode())
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    return draw(mangled(file.getvalue(), most=1))


images = _images()
"""Images that say what made them, or lie about it."""


def image_read_or_refused(data: bytes, folder: Path) -> None:
    """The plan of an image is one that could be written; or the image is refused in a line."""
    path = folder / "image.png"
    path.write_bytes(data)
    try:
        plan = read_plan(path).plan
    except DiffgraphError as error:
        demand_a_line(error)
        return
    assert MergePlan.model_validate_json(plan.model_dump_json()).id == plan.id
