"""How far is the work? Tasks say so here; whoever shows it listens.

A task that runs in another process has no listener there and stays silent: the flow counts its
shards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int | None, str], None]
"""Called with a stage, the steps done, the steps in all (if known) and a word about it."""

_listeners: list[Listener] = []


def report(stage: str, done: int, total: int | None = None, note: str = "") -> None:
    """Say that `done` of `total` steps of a stage are done."""
    for listener in _listeners:
        listener(stage, done, total, note)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with every report made in this process during the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
