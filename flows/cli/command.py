"""The `diffgraph` command: parse, call, print. Heavy imports wait inside the verbs.

Exit codes: 0 success, 1 an error of ours in one line on standard error, 2 wrong usage. With
`--json` standard output is one JSON document; progress and logs go to standard error, always.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from diffgraph.errors import DiffgraphError, packages_demanded
from diffgraph.printable import guard_logs, printable_traceback
from flows.cli import pipeline_verbs, serving_verbs, tidying_verbs
from flows.cli.app import app, print_error

VERBS = (pipeline_verbs, serving_verbs, tidying_verbs)
"""Where they are; importing them adds them to the command, in this order."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of a disk that is full or read-only."""
BROKEN = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO}
"""Errors of a disk that fails or is gone."""
NO_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ}
"""Errors of an unusable path."""


def main() -> None:
    """Run the command."""
    _prepare_process()
    with errors_printed():
        app()


@contextmanager
def errors_printed() -> Iterator[None]:
    """Make one line and exit code 1 of every error of ours or of a disk."""
    try:
        with packages_demanded():
            yield
    except DiffgraphError as error:
        _fail(str(error) or type(error).__name__)
    except OSError as error:
        if error.errno not in NO_ROOM | BROKEN | NO_NAME:
            raise
        _fail(f"{error.filename or 'the disk'}: {error.strerror}")


def _prepare_process() -> None:
    """Keep this process and those it starts quiet, and show our own warnings."""
    import logging
    import threading

    from flows.serving.server import QUIET

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("diffgraph: %(message)s"))
    for room in ("diffgraph", "tasks", "flows"):
        logging.getLogger(room).addHandler(handler)
    guard_logs()
    sys.excepthook = lambda kind, error, trace: _show_traceback(error)
    threading.excepthook = lambda failed: _show_traceback(failed.exc_value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that it cannot show must not end us
            stream.reconfigure(errors="backslashreplace")


def _show_traceback(error: BaseException | None) -> None:
    if error is not None:
        sys.stderr.write(printable_traceback(error))


def _fail(text: str) -> None:
    print_error(text)
    sys.exit(1)
