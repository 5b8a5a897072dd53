"""An environment for a block and no longer, since all tests share one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flows.serving.server import reread_settings


@contextmanager
def environment(**changes: object) -> Iterator[None]:
    """Have these variables for the block, whatever it adds itself; Prefect sees them, too."""
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in changes.items()})
    reread_settings()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        reread_settings()
