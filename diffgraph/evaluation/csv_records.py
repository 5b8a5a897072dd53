"""Where does a record of a CSV file end, when one of them is broken? The others must be read.

A quote that is never closed swallows the rest of its file, and a cell that is too large ends the
reading of it. Here either costs its own record: reading goes on with the next line.
"""

import csv
from collections.abc import Iterator, Sequence

MOST_LINES = 1_000
"""A record that goes on for longer has a quote that is not closed."""


def split_records(lines: Sequence[str]) -> Iterator[list[str] | str]:
    """Yield the cells of each record, or why it cannot be read.

    Args:
        lines: of the file, each with its end.
    """
    at = 0
    while at < len(lines):
        cells, at = _record(lines, at)
        yield cells


def _record(lines: Sequence[str], at: int) -> tuple[list[str] | str, int]:
    """Return the cells of the record at a line, or why there are none, and where the next is."""
    for most in (1, MOST_LINES):
        reader = csv.reader(lines[at : at + most], strict=True)
        try:
            return next(reader), at + reader.line_num
        except csv.Error as error:
            if "field limit" in str(error):
                reason = f"a cell has more than {csv.field_size_limit()} characters"
                return reason, _end(lines, at)
            if most == 1 and "unexpected end" not in str(error):
                # as "a cat" x: spreadsheets read it, and so do we
                return next(csv.reader(lines[at : at + 1])), at + 1
    return "a quote is not closed", at + 1


def _end(lines: Sequence[str], start: int) -> int:
    """Return the line behind a record, where the number of its quotes is even."""
    quotes = 0
    for number, line in enumerate(lines[start : start + MOST_LINES], start + 1):
        quotes += line.count('"')
        if quotes % 2 == 0:
            return number
    return start + 1
