"""How does a person read a result? As a few lines; a program reads the same as JSON."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

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

    def model_dump_json(self, *, indent: int | None = None) -> str: ...


def rows(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> Rows:
    """Return a table of anything; numbers get three decimals."""
    return Rows(columns=tuple(columns), rows=tuple(tuple(map(_cell, row)) for row in values))


def markdown(table: Rows) -> str:
    """Return the table for a Prefect artifact."""
    body = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |"
        for row in body
    )


def write(result: Printable, as_json: bool) -> None:
    """Write a result to standard output."""
    if as_json:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_FILES)
    for line in result.lines():
        if isinstance(line, str):
            console.print(harmless(line), markup=False, soft_wrap=True)
        elif console.is_terminal:
            console.print(_drawn(line))
        else:
            with console.capture() as drawn:
                console.print(_drawn(line))
            for row in drawn.get().splitlines():  # a table fills its cells with spaces
                sys.stdout.write(row.rstrip() + "\n")


def harmless(text: str) -> str:
    """Return a text that came from anywhere without characters that steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _drawn(table: Rows) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=any(table.columns))
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(harmless(cell)) for cell in row))  # Text: never markup
    return drawn


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
