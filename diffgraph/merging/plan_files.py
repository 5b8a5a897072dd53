"""Where can a plan be read? Everywhere that diffgraph writes one.

A file of JSON (a plan, what `plan`, `show plan` or a merged folder say of one), an image of ours, a
merged file or LoRA, a merged folder, or a table of images that all have one plan. Files are told
apart by how they begin, not by their names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, StrictInt, ValidationError

from diffgraph.errors import DiffgraphError, InputError, MissingInput
from diffgraph.experts.weights_file import open_weights
from diffgraph.foreign_files import open_foreign, parse_strict, read_foreign
from diffgraph.merging.plan import MergePlan

if TYPE_CHECKING:
    from diffgraph.families.family import SamplerConfig

ABOUT = "diffgraph.json"
"""What a merged folder says of itself, in the words of a merged file's metadata."""
METADATA, PROMPT, SEED = "diffgraph.plan", "diffgraph.prompt", "diffgraph.seed"
SAMPLER, REASONS = "diffgraph.sampler", "diffgraph.reasons"
EXPERTS, DEBTS = "diffgraph.experts", "diffgraph.debts"
"""What files of ours say of themselves begins so: other tools have a `prompt` of their own."""
BEFORE = {METADATA: "plan", PROMPT: "prompt", SEED: "seed"}
"""What images of version 0.1 called it."""
PNG_START, PARQUET_START = b"\x89PNG\r\n\x1a\n", b"PAR1"
MOST_BYTES = 16 << 20  # of JSON
MOST_PLANS, LONGEST_PLAN, ROWS_A_BATCH = 500, 200_000, 1_024  # of a table; characters
LARGEST = 1 << 40  # of any file that a plan may be in
WHOLE_NUMBER = re.compile(r"-?\d{1,20}", re.ASCII)
LENGTH_BYTES = 8  # of a safetensors file, before its header


class RawPlan(NamedTuple):
    """What a file says of a plan, which nobody has looked at yet, and of what was made with it."""

    plan: Any
    prompt: str = ""
    seed: int | None = None
    sampler: Any = None
    reasons: tuple[str, ...] = ()
    told: Mapping[str, str] = MappingProxyType({})


class WrittenPlan(NamedTuple):
    """A plan that was read, and what it was made for, if its file says so."""

    plan: MergePlan
    prompt: str = ""
    seed: int | None = None
    sampler: "SamplerConfig | None" = None
    reasons: tuple[str, ...] = ()
    """Why these experts, a line each."""
    told: Mapping[str, str] = MappingProxyType({})
    """All that an image says of itself, unread, by the name of the text chunk."""


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
    drawn_text: str = ""
    sampler: Any = None


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
        raw = found[0]
        sampler = None if raw.sampler is None else _sampler(raw.sampler)
        return WrittenPlan(MergePlan.model_validate(raw.plan), *raw[1:3], sampler, *raw[4:])
    except OSError as error:
        raise MissingInput(f"the plan {path} cannot be read: {error.strerror or error}") from error
    except DiffgraphError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error  # else only the file's name is told
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no merge plan: {reason_of(error)}") from error


def _sampler(told: Any) -> "SamplerConfig":
    from diffgraph.families.family import SamplerConfig

    try:
        return SamplerConfig.model_validate(told)
    except ValidationError as error:
        raise ValueError(f"sampler: {reason_of(error)}") from error


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
        return [RawPlan(parse_strict(text)) for text in _of_table(path)]
    if start[LENGTH_BYTES:] == b"{" and b"\0" in start:
        return [RawPlan(parse_strict(_of_weights(path)))]
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
        return [RawPlan(parse_strict(found[METADATA]))]
    if "plan" not in found:
        return [RawPlan(found)]
    about = PlanDocument.model_validate(found)
    plan = MergePlan.model_validate(about.plan)
    for field, said, true in (
        ("id", about.id, plan.id),
        ("plan_id", about.plan_id, plan.id),
        ("coefficients", about.coefficients, plan.coefficients()),
    ):
        if said is not None and said != true:
            raise ValueError(f"{field}: {said} is not that of the plan beside it, {true}")
    return [RawPlan(plan, about.prompt, about.seed, about.sampler, about.explanation)]


def _of_image(path: Path) -> RawPlan:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            texts = dict(image.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MissingInput(f"{path} is not a PNG image that can be read") from error
    names = {name: name for name in BEFORE} if METADATA in texts else BEFORE
    if names[METADATA] not in texts:
        raise MissingInput(f"{path} does not say which plan made it: it is no image of ours")
    # another tool may have left out what it did not know
    seed = texts.get(names[SEED])
    if seed is not None and not WHOLE_NUMBER.fullmatch(str(seed)):
        raise ValueError("its seed is no whole number")
    told = {str(name): str(text) for name, text in texts.items()}
    return RawPlan(
        parse_strict(told[names[METADATA]]),
        told.get(names[PROMPT], ""),
        None if seed is None else int(seed),
        parse_strict(told[SAMPLER]) if SAMPLER in told else None,
        tuple(told.get(REASONS, "").splitlines()),
        told,
    )


def _of_weights(path: Path) -> str:
    file = open_weights(path)
    if METADATA not in file.metadata:
        raise ValueError("its metadata do not say which plan made it")
    return file.metadata[METADATA]


def _of_table(path: Path) -> list[str]:
    """Return the texts of the plans in a table of images, each once; no more than `MOST_PLANS`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diffgraph.foreign_tables import bounded_batches

    texts: set[Any] = set()
    try:
        if "plan" not in pq.read_schema(path).names:
            raise ValueError("the table has no column of plans")
        for rows in bounded_batches(path, ["plan"], ROWS_A_BATCH, LONGEST_PLAN):
            texts.update(rows[0].unique().drop_null().to_pylist())
            if len(texts) > MOST_PLANS:
                raise ValueError(f"the table holds more than {MOST_PLANS} plans: one is needed")
    except pa.ArrowException as error:
        raise ValueError(f"the table cannot be read: {error}") from error
    return sorted(texts)
