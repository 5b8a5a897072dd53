"""The `diffgraph` command in this process, and what it does to a process undone."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.environment import environment

# A runner in the background ignores Ctrl-C, and so would the commands that are tested for it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def our_environment() -> Iterator[None]:
    """Undo what a command does to this process: its environment, its logging."""
    rooms = [logging.getLogger(name) for name in ("diffgraph", "tasks", "flows")]
    handlers = [list(room.handlers) for room in rooms]
    with environment():
        yield
    for room, found in zip(rooms, handlers, strict=True):
        room.handlers[:] = found


@pytest.fixture
def diffgraph(our_environment, capsys, monkeypatch) -> Callable[..., Told]:
    """Run the command in this process."""
    from flows.cli import main

    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["diffgraph", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        return Told(code, told.out, told.err)

    return run
