"""What does a flow or a verb find out? A value with its own words: lines, and tables."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pydantic import BaseModel


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


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
