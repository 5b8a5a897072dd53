"""Files that are whole or absent, and are named by their content.

A write goes to a temporary name beside its target, is flushed to the disk, and then takes the
target's name in one step: a reader, or a run that was killed half-way, never sees half a file.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffgraph.errors import StorageError

READ_BYTES = 1 << 20
TAIL_BYTES = 4096


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a failure to write below `path` into a `StorageError` that names it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes that name when the block ends well."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    part = Path(name)
    try:
        with storing(path):
            yield part
            _flush(part)
            part.chmod(0o644)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it takes that name when the block ends well.

    A folder that is already there stays as it is, and what was made is dropped: both hold the
    same, since such folders are named by their content.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        with storing(path):
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    _flush(file)
            part.chmod(0o755)
            if not path.exists():
                part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def append_lines(path: Path, data: bytes) -> None:
    """Append whole lines to a file, all or none; the caller holds a lock.

    A last line without an end, torn by a crash, is removed first; a failed write leaves no trace.
    """
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = _end_of_lines(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole, or not at all."""
    with new_file(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole, or not at all."""
    write_bytes(path, text.encode())


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _end_of_lines(handle: int) -> int:
    """Return the offset behind the last newline."""
    end = os.lseek(handle, 0, os.SEEK_END)
    while end:
        start = max(0, end - TAIL_BYTES)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
