"""What does a flow, a task or a verb find out? One value with its own words: lines and tables."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel


class Result(BaseModel, frozen=True):
    """What was found out; `lines` is what a person is told of it, its fields what a program is."""

    def lines(self) -> Iterator["str | Rows"]:
        """Yield lines and tables."""
        yield from (f"{name}: {value}" for name, value in self)


class Rows(BaseModel, frozen=True):
    """A table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rows(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> Rows:
    """Return a table of anything; numbers get three decimals."""
    return Rows(columns=tuple(columns), rows=tuple(tuple(map(_cell, row)) for row in values))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
