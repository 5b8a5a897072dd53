"""Prints a result: as a few lines for a person, as JSON for a program.

What is printed may come from anywhere: it passes `diffgraph.printable` here.
"""

import json
import sys

from pydantic_core import PydanticSerializationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffgraph.printable import harmless_json, printable
from diffgraph.results import Result, Rows
from diffgraph.secrets import masked

WIDTH_OF_FILES = 160
"""Letters a line of a table that is not shown on a terminal."""


def write(result: Result, as_json: bool) -> None:
    """Write a result to standard output."""
    if as_json:
        sys.stdout.write(harmless_json(masked(_document(result))) + "\n")
        return
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=WIDTH_OF_FILES)
    for line in result.lines():
        if isinstance(line, str):
            console.print(printable(line), markup=False, soft_wrap=True)
        elif console.is_terminal:
            console.print(_drawn(line))
        else:
            with console.capture() as drawn:
                console.print(_drawn(line))
            for row in drawn.get().splitlines():  # a table fills its cells with spaces
                sys.stdout.write(row.rstrip() + "\n")
    sys.stdout.flush()  # the next one may take minutes


def _document(result: Result) -> str:
    try:
        return result.model_dump_json(indent=2)
    except PydanticSerializationError:  # half a letter: UTF-8 has no place for it, JSON has
        return json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False)


def _drawn(table: Rows) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=any(table.columns))
    for column in table.columns:
        drawn.add_column(Text(printable(column)), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))  # Text: never markup
    return drawn
