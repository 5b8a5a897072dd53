"""Which prompts is a method tried on? Bundled sets, and files people bring.

A broken row never stops a run: it is counted, and named with its reason. A file in which no row at
all can be used is an error.
"""

import csv
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from diffgraph.artifacts import demand_local
from diffgraph.errors import MissingInput
from diffgraph.evaluation.csv_records import split_records
from diffgraph.families import get_family
from diffgraph.foreign_files import bounded_lines, parse_strict
from diffgraph.foreign_tables import bounded_batches
from diffgraph.printable import printable_briefly

log = logging.getLogger(__name__)

LONGEST_PROMPT = 2_000
"""Characters. Longer rows are rather a paste by mistake than a prompt."""

LONGEST_ID = 200
NO_LETTERS = {"Cc", "Cs"}
"""Kinds of characters that no text has: control characters, and halves of others."""

MANY_BROKEN = 10_000
"""Beyond as many, a file of which most rows are broken is not read on."""

TOLD = 5
"""Broken rows that are named in the log; the others are only counted."""


class EvaluationPrompt(BaseModel, frozen=True):
    """A prompt to draw and, where it was composed, the truth that it was composed from."""

    id: str = Field(description="unique within its set")
    text: str
    subject: str = ""
    group: str = Field(default="", description="the group of subjects, e.g. animals")
    style: str = ""
    treatments: tuple[str, ...] = ()
    experts: tuple[str, ...] = Field(
        default=(), description="refs of the experts that are right for it"
    )


class BrokenRow(BaseModel, frozen=True):
    """A row that could not be used."""

    row: int = Field(description="the first is 1")
    reason: Annotated[str, AfterValidator(printable_briefly)]


class PromptSet(BaseModel, frozen=True):
    """A set of prompts with what could not be read of it."""

    name: str
    prompts: tuple[EvaluationPrompt, ...]
    broken: tuple[BrokenRow, ...] = ()


def load_prompts(
    name_or_path: str | Path,
    column: str = "prompt",
    limit: int | None = None,
    family: str = "emoji64",
) -> list[EvaluationPrompt]:
    """Return the prompts of a bundled set (`bench`) or a file; log how many rows were broken."""
    found = read_prompts(name_or_path, column, limit, family)
    if found.broken:
        shown = "; ".join(f"row {row.row}: {row.reason}" for row in found.broken[:TOLD])
        log.warning("%s: %d broken rows left out (%s)", found.name, len(found.broken), shown)
    return list(found.prompts)


def read_prompts(
    name_or_path: str | Path,
    column: str = "prompt",
    limit: int | None = None,
    family: str = "emoji64",
) -> PromptSet:
    """Return the prompts of a bundled set or a file, together with its broken rows.

    Args:
        name_or_path: the name of a bundled set, or a `.jsonl`, `.parquet`, `.csv` or `.txt` file.
        column: where the prompt is, in a file with columns.
        limit: at most this many good prompts, from the start of the file.
        family: whose bundled sets are meant.
    """
    path = find_prompts(name_or_path, family)
    read = READERS[path.suffix.lower()]
    prompts: list[EvaluationPrompt] = []
    broken: list[BrokenRow] = []
    seen: set[str] = set()
    try:
        for number, row in enumerate(read(path, column), start=1):
            if limit is not None and len(prompts) >= limit:
                break
            prompt = _prompt_of(row, number, column)
            if isinstance(prompt, EvaluationPrompt) and prompt.id in seen:
                prompt = f"the id {prompt.id!r} is used twice"
            if isinstance(prompt, str):
                broken.append(BrokenRow(row=number, reason=prompt))
                if len(broken) > max(MANY_BROKEN, len(prompts)):
                    first = f"row {broken[0].row}: {broken[0].reason}"
                    raise MissingInput(f"{path}: most rows cannot be used, as {first}")
                continue
            seen.add(prompt.id)
            prompts.append(prompt)
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise MissingInput(f"cannot read the prompts in {path}: {error}") from error
    if not prompts and limit != 0:
        reasons = f": row {broken[0].row}: {broken[0].reason}" if broken else ""
        raise MissingInput(f"no usable prompt in {path}{reasons}")
    return PromptSet(name=Path(name_or_path).stem, prompts=tuple(prompts), broken=tuple(broken))


def bundled_sets(family: str = "emoji64") -> dict[str, Path]:
    """Return the prompt sets that ship with a family, by name."""
    assets = get_family(family).assets
    files = sorted((assets / "prompts").iterdir()) if assets else []
    return {path.stem: path for path in files if path.suffix in READERS}


def find_prompts(name_or_path: str | Path, family: str = "emoji64") -> Path:
    """Return the file of a bundled set, or the path itself; raises `MissingInput` for neither."""
    bundled = bundled_sets(family)
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    demand_local(name_or_path)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(bundled)) or "none"
        raise MissingInput(
            f"no prompts called {str(name_or_path)!r}: no such file, no set of {family} ({names})"
        )
    if path.suffix.lower() not in READERS:
        raise MissingInput(f"cannot read prompts from {path}: expected {', '.join(READERS)}")
    return path


Row = Mapping[str, Any] | str
"""A row as columns, or the reason why it could not be read."""


def _lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text as UTF-8, or as UTF-16 if it says so; what is neither is marked."""
    with path.open("rb") as file:
        encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with path.open(encoding=encoding, errors="replace", newline=newline) as file:
        yield from bounded_lines(file)


def read_jsonl(path: Path, column: str) -> Iterator[Row]:
    """Yield one object a line."""
    for line in _lines(path):
        if not line.strip():
            continue
        try:
            row = parse_strict(line)
        except ValueError as error:
            yield f"not JSON: {error}"
            continue
        yield row if isinstance(row, dict) else f"expected an object, found {type(row).__name__}"


def read_txt(path: Path, column: str) -> Iterator[Row]:
    """Yield one prompt a line."""
    for line in _lines(path):
        if line.strip():
            yield {column: line}


def read_csv(path: Path, column: str) -> Iterator[Row]:
    """Yield the rows below a header."""
    rows = split_records(list(_lines(path, newline="")))
    header = next(rows, [])
    if isinstance(header, str):
        raise MissingInput(f"{path} has no header: {header}")
    _need_column(path, column, header)
    for cells in rows:
        if isinstance(cells, str):
            yield cells
        elif any(cells[len(header) :]):
            yield f"{len(cells)} cells under a header of {len(header)}: a comma without quotes?"
        elif cells:
            yield dict(zip(header, cells, strict=False))


def read_parquet(path: Path, column: str) -> Iterator[Row]:
    """Yield the rows, a batch at a time: a set may be larger than the memory."""
    names = pq.read_schema(path).names
    _need_column(path, column, names)
    known = [name for name in names if name in {*FIELDS, column}]
    for batch in bounded_batches(path, known, rows=1024):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            yield from (_one(batch.slice(number, 1)) for number in range(batch.num_rows))


def _one(batch: pa.RecordBatch) -> Row:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError:
        return "not readable as UTF-8 text"
    return row


READERS: Mapping[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".txt": read_txt,
}
"""By the end of a file's name."""

FIELDS = tuple(name for name in EvaluationPrompt.model_fields if name != "text")


def _need_column(path: Path, column: str, found: "list[str] | Any") -> None:
    if column not in found:
        names = ", ".join(name[:LONGEST_ID] for name in islice(map(str, found), 20)) or "none"
        raise MissingInput(f"{path} has no column {column!r}; found: {names}")


def _prompt_of(row: Row, number: int, column: str) -> EvaluationPrompt | str:
    """Return the prompt of a row, or why there is none."""
    if isinstance(row, str):
        return row
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        return f"{column!r} is missing, empty or not a text"
    text = " ".join(text.split())
    if len(text) > LONGEST_PROMPT:
        return f"more than {LONGEST_PROMPT} characters"
    if "\ufffd" in text:
        return "not readable as UTF-8 text"
    if bad := next((c for c in text if unicodedata.category(c) in NO_LETTERS), ""):
        return f"holds U+{ord(bad):04X}, which is no letter"
    fields = {name: row[name] for name in FIELDS if row.get(name) not in (None, "")}
    fields["id"] = str(fields.get("id", f"row-{number:06d}"))
    if len(fields["id"]) > LONGEST_ID:
        return f"its id has {len(fields['id'])} characters, more than {LONGEST_ID}"
    try:
        return EvaluationPrompt(text=text, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
