"""What does a flow, a task or a verb find out? One value with its own words: lines and tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diffgraph.printable import printable


class Result(BaseModel, frozen=True):
    """What was found out; `lines` is what a person is told of it, its fields what a program is."""

    def lines(self) -> Iterator["str | Rows"]:
        """Yield lines and tables."""
        yield from (f"{name}: {value}" for name, value in self)


class Rows(BaseModel, frozen=True):
    """A table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Recorded(BaseModel, frozen=True):
    """Where a run is found again."""

    run_id: str = ""
    """In MLflow; empty if MLflow does not have it yet."""
    uri: str
    version: str = ""
    champion: bool = False
    kept: Path | None = None
    """The file of a record that MLflow does not have yet."""

    def line(self) -> str:
        """Return where it is recorded."""
        if self.kept is not None:
            where = printable(self.uri)
            return f"not recorded in {where} yet: kept in {self.kept}, sent with the next"
        return f"run {self.run_id} in {printable(self.uri)}"


def rows(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> Rows:
    """Return a table of anything; numbers get three decimals."""
    return Rows(columns=tuple(columns), rows=tuple(tuple(map(_cell, row)) for row in values))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
