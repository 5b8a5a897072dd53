"""How is a command stopped from outside? SIGTERM and SIGHUP end it in good order, as Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """Another process wants us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Terminated` in the block where SIGTERM or SIGHUP would have killed the process.

    While a flow runs, Prefect listens to SIGTERM and marks the run before it passes the signal on;
    what came as SIGHUP goes the same way. What the user has ignored, as nohup does, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = 0

    def on_hangup(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = number
        signal.raise_signal(signal.SIGTERM)

    def on_end(number: int, frame: FrameType | None) -> None:
        raise Terminated(came or number)

    wanted = {signal.SIGTERM: on_end, signal.SIGHUP: on_hangup}
    ours = {one: act for one, act in wanted.items() if signal.getsignal(one) is signal.SIG_DFL}
    for one, act in ours.items():
        signal.signal(one, act)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)
