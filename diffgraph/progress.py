"""Progress of the work, and whether it must stop. Tasks report it; listeners show it.

A task that runs in another process has no listener there and stays silent: the flow counts its
shards. A task in a thread of ours is stopped here, between two images: a thread hears no signal.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int | None, str], None]
"""Called with a stage, the steps done, the steps in all (if known) and a word about it."""

_listeners: list[Listener] = []
_stop = threading.Event()


class Stopped(BaseException):
    """The run was asked to stop; like `KeyboardInterrupt`, it is not to be caught."""


def report(stage: str, done: int, total: int | None = None, note: str = "") -> None:
    """Say that `done` of `total` steps of a stage are done."""
    go_on()
    for listener in _listeners:
        listener(stage, done, total, note)


def go_on() -> None:
    """End a task between two images if the run is stopped; what is finished is kept."""
    if _stop.is_set() and threading.current_thread() is not threading.main_thread():
        raise Stopped


@contextmanager
def stopping() -> Iterator[None]:
    """Have tasks in threads stop at their next image; afterwards, if all went well, no more."""
    _stop.set()
    yield
    _stop.clear()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with every report made in this process during the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
