"""To wait for what happens: as soon as it has, and for as long as the slowest machine needs."""

import time
from collections.abc import Callable

PATIENCE = 600.0
"""Seconds after which something has gone wrong, whatever else this machine does."""


def wait_for(happened: Callable[[], object], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {patience:.0f} s"
        time.sleep(0.01)
