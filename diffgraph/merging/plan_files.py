"""Where can a plan be read? Everywhere that diffgraph writes one.

A file of JSON (a plan, what `plan`, `show plan` or a merged folder say of one), an image of ours, a
merged file or LoRA, a merged folder, or a table of images that all have one plan. Files are told
apart by how they begin, not by their names.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, StrictInt, ValidationError

from diffgraph.errors import DiffgraphError, InputError, MissingInput
from diffgraph.experts.weights_file import open_weights
from diffgraph.foreign_files import open_foreign, parse_strict, read_foreign
from diffgraph.merging.plan import MergePlan

ABOUT = "diffgraph.json"
"""What a merged folder says of itself, in the words of a merged file's metadata."""
METADATA, PROMPT, SEED = "diffgraph.plan", "diffgraph.prompt", "diffgraph.seed"
"""What files of ours say of themselves begins so: other tools have a `prompt` of their own."""
BEFORE = {METADATA: "plan", PROMPT: "prompt", SEED: "seed"}
"""What images of version 0.1 called it."""
PNG_START, PARQUET_START = b"\x89PNG\r\n\x1a\n", b"PAR1"
MOST_BYTES = 16 << 20  # of JSON
LARGEST = 1 << 40  # of any file that a plan may be in
WHOLE_NUMBER = re.compile(r"-?\d{1,20}", re.ASCII)
LENGTH_BYTES = 8  # of a safetensors file, before its header


RawPlan = tuple[Any, str, int | None]
"""What a file says of a plan, which nobody has looked at yet; of its prompt and of its seed."""


class WrittenPlan(NamedTuple):
    """A plan that was read, and what it was made for, if its file says so."""

    plan: MergePlan
    prompt: str = ""
    seed: int | None = None


class PlanDocument(BaseModel, extra="forbid"):
    """What `plan --json` and `show plan --json` say beside a plan."""

    plan: Any
    prompt: str = ""
    seed: StrictInt | None = None
    method: str = ""
    id: str | None = None
    plan_id: str | None = None
    coefficients: dict[str, float] | None = None
    selection: Any = None
    explanation: tuple[str, ...] = ()
    credits: Any = None
    debts: tuple[str, ...] = ()
    text: str = ""


def read_plan(path: Path) -> WrittenPlan:
    """Return the plan in a file or folder.

    Raises:
        MissingInput: nothing is there, or it cannot be read.
        InputError: it holds no plan, one that cannot be, or several.
    """
    try:
        found = _plans(path / ABOUT if path.is_dir() else path)
        if len(found) != 1:
            raise InputError(f"{path} holds {len(found)} plans: one is needed")
        told, prompt, seed = found[0]
        return WrittenPlan(MergePlan.model_validate(told), prompt, seed)
    except OSError as error:
        raise MissingInput(f"the plan {path} cannot be read: {error.strerror or error}") from error
    except DiffgraphError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error  # else only the file's name is told
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no merge plan: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return what is wrong in one line, with the field that is wrong."""
    if isinstance(error, KeyError):
        return f"it says nothing of its {error.args[0]}"
    if isinstance(error, ValidationError):
        first, *others = error.errors()
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        more = f" (and {len(others)} more)" if others else ""
        return f"{where}: {what}{more}" if where else f"{what}{more}"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plans(path: Path) -> list[RawPlan]:
    with open_foreign(path, LARGEST) as file:
        start = file.read(LENGTH_BYTES + 1)
    if start.startswith(PNG_START):
        return [_of_image(path)]
    if start.startswith(PARQUET_START):
        return [(parse_strict(text), "", None) for text in _of_table(path)]
    if start[LENGTH_BYTES:] == b"{" and b"\0" in start:
        return [(parse_strict(_of_weights(path)), "", None)]
    return _of_json(parse_strict(read_foreign(path, MOST_BYTES)))


def _of_json(found: Any) -> list[RawPlan]:
    if not isinstance(found, dict):
        raise ValueError("a plan is an object with a family and experts")
    if isinstance(found.get("plans"), list):  # what `plan` prints
        if unknown := sorted(found.keys() - {"plans", "failed", "spending"}):
            raise ValueError(f"{unknown[0]}: is no field of what `plan --json` prints")
        return [told for one in found["plans"] for told in _of_json(one)]
    if METADATA in found:
        if not isinstance(found[METADATA], str):
            raise ValueError(f"its {METADATA} is no text")
        return [(parse_strict(found[METADATA]), "", None)]
    if "plan" not in found:
        return [(found, "", None)]
    about = PlanDocument.model_validate(found)
    plan = MergePlan.model_validate(about.plan)
    for field, said, true in (
        ("id", about.id, plan.id),
        ("plan_id", about.plan_id, plan.id),
        ("coefficients", about.coefficients, plan.coefficients()),
    ):
        if said is not None and said != true:
            raise ValueError(f"{field}: {said} is not that of the plan beside it, {true}")
    return [(plan, about.prompt, about.seed)]


def _of_image(path: Path) -> RawPlan:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            texts = dict(image.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MissingInput(f"{path} is not a PNG image that can be read") from error
    names = {name: name for name in BEFORE} if METADATA in texts else BEFORE
    if names[METADATA] not in texts:
        raise MissingInput(f"{path} does not say which plan made it")
    # another tool may have left out what it did not know
    seed = texts.get(names[SEED])
    if seed is not None and not WHOLE_NUMBER.fullmatch(str(seed)):
        raise ValueError("its seed is no whole number")
    seed = None if seed is None else int(seed)
    return parse_strict(str(texts[names[METADATA]])), str(texts.get(names[PROMPT], "")), seed


def _of_weights(path: Path) -> str:
    with open_weights(path) as file:
        if METADATA not in file.metadata:
            raise ValueError("its metadata do not say which plan made it")
        return file.metadata[METADATA]


def _of_table(path: Path) -> list[str]:
    """Return the texts of all plans in a table of images, each once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            if "plan" not in table.schema_arrow.names:
                raise ValueError("the table has no column of plans")
            texts: set[Any] = set()
            for rows in table.iter_batches(columns=["plan"]):
                texts.update(rows[0].cast(pa.string()).unique().drop_null().to_pylist())
    except pa.ArrowException as error:
        raise ValueError(f"the table cannot be read: {error}") from error
    return sorted(texts)
