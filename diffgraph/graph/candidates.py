"""Which prompts could be reference prompts? Files of millions, read once, in bounded memory.

A file is streamed; rows that are unfit (unsafe, unreadable) are passed over and counted. Of what is
left, a sample is kept: the prompts with the smallest hashes. It is a fair sample, the same in every
order of the rows, and what says the same is met with the same hash, so that nothing is in it twice.
"""

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffgraph.agents.prompts import cleaned
from diffgraph.agents.words import plain, words
from diffgraph.errors import InputError, MissingInput
from diffgraph.foreign_files import bounded_lines
from diffgraph.foreign_tables import bounded_batches

GENERAL = Path(__file__).parent / "general_prompts.parquet"
"""Scenes of any kind, for families that ship no candidates of their own."""
COLUMN = "prompt"
UNSAFE: Mapping[str, float] = {"prompt_nsfw": 0.2, "image_nsfw": 0.5}
"""DiffusionDB's columns: from which value on, of at most 1, a row is passed over (2: blurred)."""

FEWEST_WORDS, MOST_WORDS = 2, 75
LONGEST = 2_000  # characters
KEPT = 200_000  # candidates that are ranked: some 60 MB
ROWS_A_BATCH = 8_192
_COMMAS = re.compile(r"(?:\s*,)+\s*")
_MARKUP = frozenset("()[]{}<>|\\")


def stream_candidates(path: Path) -> Iterator[str]:
    """Yield the prompts of a JSONL or Parquet file: an object with a `prompt` a line or row.

    Raises:
        MissingInput: the file is not there or cannot be read.
        InputError: a line is not such an object, or there is no column of prompts.
    """
    if not path.is_file():
        raise MissingInput(f"no file of candidate prompts at {path}")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: candidate prompts are read from {', '.join(READERS)}")
    try:
        yield from read(path)
    except OSError as error:
        raise MissingInput(f"the prompts in {path} cannot be read: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                prompt = row[COLUMN]
                str(prompt).encode()  # half a character has no bytes
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f'{path}:{number}: expected {{"prompt": "…"}}') from error
            if not isinstance(prompt, str):
                raise InputError(f"{path}:{number}: the prompt is not a text")
            if _is_safe(row):
                yield prompt


def _rows(path: Path) -> Iterator[str]:
    try:
        found = pq.read_schema(path)
        if COLUMN not in found.names or not _is_text(found.field(COLUMN).type):
            names = ", ".join(found.names[:20])
            raise InputError(f"{path} has no column of texts called {COLUMN!r}: {names}")
        columns = [COLUMN, *(name for name in UNSAFE if name in found.names)]
        for batch in bounded_batches(path, columns, ROWS_A_BATCH):
            for row in batch.to_pylist():
                if row[COLUMN] is not None and _is_safe(row):
                    yield row[COLUMN]
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {error}") from error


READERS: Mapping[str, Callable[[Path], Iterator[str]]] = {".jsonl": _lines, ".parquet": _rows}
"""By the end of a file's name."""


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_safe(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is not marked as unsafe; what is not marked at all is safe."""
    for name, limit in UNSAFE.items():
        value = row.get(name)
        if isinstance(value, int | float) and not value < limit:  # NaN is not below anything
            return False
    return True


def usable(
    candidates: Iterable[str], exclude: Collection[str] = (), kept: int = KEPT
) -> tuple[list[str], int]:
    """Return the candidates that can be reference prompts, each once, and how many were looked at.

    Args:
        candidates: any texts, as many as there are.
        exclude: texts that must not be among them, however they are spaced or capitalised.
        kept: of more usable ones, so many are kept: those with the smallest hashes.
    """
    excluded = {identity(text) for text in exclude}
    found: dict[int, tuple[int, str]] = {}  # hash → (when it was met, text)
    largest: list[int] = []  # a heap of the hashes, negated
    looked_at = 0
    for candidate in candidates:
        looked_at += 1
        text = _readable(candidate)
        said = words(text)
        if not FEWEST_WORDS <= len(said) <= MOST_WORDS:
            continue
        same = " ".join(said)
        key = int.from_bytes(hashlib.blake2b(same.encode(), digest_size=8).digest(), "big")
        if key in found or (len(found) >= kept and key > -largest[0]) or same in excluded:
            continue
        found[key] = (looked_at, text)
        heapq.heappush(largest, -key)
        if len(found) > kept:
            del found[-heapq.heappop(largest)]
    return [text for _, text in sorted(found.values())], looked_at


def identity(text: str) -> str:
    """Return what stays the same however a prompt is spaced, punctuated or capitalised."""
    return " ".join(words(text))


def _readable(text: str) -> str:
    """Return a prompt on one line, without weights and tags if it seems to have any."""
    text = text[:LONGEST]
    if not (text.isascii() and text.isprintable()):
        text = plain(text, LONGEST)
    if not _MARKUP.isdisjoint(text):
        text = _COMMAS.sub(", ", cleaned(text)).strip(" ,")
    return " ".join(text.split())
