"""How does a person read a result? As a few lines; a program reads the same as JSON.

What is printed may come from anywhere: it passes `diffgraph.telling` here.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffgraph.secrets import masked
from diffgraph.telling import harmless_json, told

WIDTH_OF_FILES = 160
"""Letters a line of a table that is not shown on a terminal."""


class Result(BaseModel, frozen=True):
    """What a verb found out; `lines` is what a person is told of it."""

    def lines(self) -> Iterator["str | Rows"]:
        """Yield lines and tables."""
        yield from (f"{name}: {value}" for name, value in self)


class Rows(BaseModel, frozen=True):
    """A table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Printable(Protocol):
    """A result that can be told in lines and dumped as JSON."""

    def lines(self) -> Iterator[str | Rows]: ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]: ...

    def model_dump_json(self, *, indent: int | None = None) -> str: ...


def rows(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> Rows:
    """Return a table of anything; numbers get three decimals."""
    return Rows(columns=tuple(columns), rows=tuple(tuple(map(_cell, row)) for row in values))


def markdown(*parts: str | Rows) -> str:
    """Return lines and tables for a Prefect artifact; what they say is text and never markup."""
    return "\n\n".join(_plain(part) if isinstance(part, str) else _table(part) for part in parts)


def _table(table: Rows) -> str:
    body = [map(_plain, table.columns), ("---",) * len(table.columns)]
    body += [map(_plain, row) for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in body)


def _plain(text: str) -> str:
    text = re.sub(r"[\\`*_\[\]|~]", r"\\\g<0>", told(text).strip())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"^(#|>|[-+] )", r"\\\1", text)


def write(result: Printable, as_json: bool) -> None:
    """Write a result to standard output."""
    if as_json:
        sys.stdout.write(harmless_json(masked(_document(result))) + "\n")
        return
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=WIDTH_OF_FILES)
    for line in result.lines():
        if isinstance(line, str):
            console.print(told(line), markup=False, soft_wrap=True)
        elif console.is_terminal:
            console.print(_drawn(line))
        else:
            with console.capture() as drawn:
                console.print(_drawn(line))
            for row in drawn.get().splitlines():  # a table fills its cells with spaces
                sys.stdout.write(row.rstrip() + "\n")
    sys.stdout.flush()  # the next one may take minutes


def _document(result: Printable) -> str:
    try:
        return result.model_dump_json(indent=2)
    except PydanticSerializationError:  # half a letter: UTF-8 has no place for it, JSON has
        return json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False)


def _drawn(table: Rows) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=any(table.columns))
    for column in table.columns:
        drawn.add_column(Text(told(column)), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(told(cell)) for cell in row))  # Text: never markup
    return drawn


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
