"""How does a process die, or its disk fail, at a chosen change of a file? With a library in C.

The library is compiled once and loaded before all others (`LD_PRELOAD`), so it sees the writes of
Python, Arrow, SQLite and the rest alike. It sleeps until a process arms it for itself.
"""

import ctypes
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = "cc"


class Kind(Enum):
    """What happens at a change: its errno, and whether all later changes meet it too."""

    KILL = (0, False)
    FULL_DISK = (errno.ENOSPC, True)
    BAD_DISK = (errno.EIO, False)
    READ_ONLY = (errno.EROFS, True)
    NO_RENAMES = (errno.EXDEV, True)
    """Only renames are hit."""


class Fault(NamedTuple):
    """What happens, and at which change of a file; the first is 1."""

    kind: Kind
    at: int


def reexecute(module: str) -> None:
    """Run this program again with the library loaded, if it is not."""
    if "faults" in os.environ.get("LD_PRELOAD", ""):
        return
    environment = {**os.environ, "LD_PRELOAD": str(_library())}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def _library() -> Path:
    """Return the compiled library, named by its source."""
    if shutil.which(COMPILER) is None:
        raise SystemExit(f"a C compiler is needed: {COMPILER} was not found (apt-get install gcc)")
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"diffgraph-faults-{name}.so"
    if not library.is_file():
        part = library.with_suffix(f".{os.getpid()}")
        command = [COMPILER, "-O1", "-shared", "-fPIC", "-o", str(part), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        part.replace(library)
    return library


def arm(folder: Path, fault: Fault | None) -> None:
    """Count this process's changes below a folder from now on, and let one of them be hit."""
    number, lasts = fault.kind.value if fault else (0, False)
    at = ctypes.c_long(fault.at if fault else 0)
    ctypes.CDLL(None).faults_arm(str(folder).encode(), at, number, int(lasts))


def changes() -> int:
    """Return how many changes this process has made since it was armed."""
    count = ctypes.CDLL(None).faults_count
    count.restype = ctypes.c_long
    return int(count())
