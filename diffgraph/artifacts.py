"""Files that are whole or absent, and are named by their content.

A write goes to a temporary name beside its target, is flushed to the disk, and then takes the
target's name in one step: a reader, or a run that was killed half-way, never sees half a file.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from diffgraph.errors import InputError, StorageError
from diffgraph.permissions import close_folder, make_folder, mode_of, opener

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)")
READ_BYTES = 1 << 20
TAIL_BYTES = 4096
PART = ".part"
NAME_SHOWN = 200  # bytes of a name in a temporary one, which is longer
LEFT = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)
"""What the hidden names are like that files and folders have while they are written."""
MANY = 1000
"""Entries beyond which a folder is looked through once a process, and not at each write."""

_entries: dict[Path, int] = {}  # folder -> how many it had when it was looked through


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def demand_local(place: str | Path) -> None:
    """Raise `InputError` for an address where a path is meant: `s3://bucket/prompts.csv`."""
    found = ADDRESS.match(str(place))
    if found and not Path(place).exists():
        scheme, rest = found.groups()
        raise InputError(
            f"{scheme}://{rest.lstrip('/')}: files are read and written on this machine only, not "
            f"at {scheme} addresses; copy it here first"
        )


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a failure to write below `path` into a `StorageError` that names it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def lock_at(path: Path, timeout: float = -1) -> FileLock:
    """Return a lock between processes; its file is as private as what it guards."""
    return FileLock(path, timeout=timeout, mode=mode_of(path))


@contextmanager
def holding(lock: FileLock) -> Iterator[None]:
    """Hold a lock whose file lies beside what it guards; raises `StorageError` if it cannot be."""
    folder = Path(lock.lock_file).parent
    with storing(folder):
        make_folder(folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes that name when the block ends well."""
    with _part_of(path, is_folder=False) as part, storing(path):
        yield part
        _flush(part)
        part.chmod(mode_of(path))
        part.replace(path)


def take_free_name(part: Path, path: Path) -> bool:
    """Give a whole file beside `path` that name, in one step, unless something has it.

    Returns:
        Whether it was free. Where it was, `part` may have both names from now on.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode_of(path)))
        except FileExistsError:
            return False
        part.replace(path)
    return True


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it takes that name when the block ends well.

    Args:
        path: of the folder.
        replace: whether it takes the place of a folder that is there. Otherwise that stays as it
            is and what was made is dropped: such folders are named by their content.
    """
    with _part_of(path, is_folder=True) as part, storing(path):
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _flush(file)
        close_folder(part, path)
        if replace and path.is_dir():
            with _part_of(path, is_folder=True) as old:
                path.rename(old)  # onto an empty folder; both go under their names at once
                part.rename(path)
        elif not path.exists():
            part.rename(path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside `path`; it goes however the block ends."""
    with _part_of(path, is_folder=True) as part:
        yield part


@contextmanager
def _part_of(path: Path, is_folder: bool) -> Iterator[Path]:
    """Yield a new hidden file or folder beside `path`; what is left of it goes, then or later.

    It is locked as long as this process lives: whoever writes beside it next takes away what
    processes left that were killed, and nothing that is still written.
    """
    with storing(path):
        make_folder(path.parent)
        sweep(path.parent)
        part, lock = _locked(path, is_folder)
    try:
        yield part
    finally:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path, is_folder: bool) -> tuple[Path, int]:
    """Return a new file or folder and the handle that holds its lock."""
    shown = os.fsencode(path.name)[:NAME_SHOWN].decode("utf-8", "ignore")
    prefix = f".{shown}."
    while True:
        if is_folder:
            part = Path(tempfile.mkdtemp(PART, prefix, path.parent))
            handle = os.open(part, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(PART, prefix, path.parent)
            part = Path(name)
        with contextlib.suppress(OSError):  # where there are no locks, nothing is swept, either
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
        if part.exists():  # or it was swept before it was locked
            return part, handle
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder while they wrote; every writer does so."""
    if fcntl is None or _entries.get(folder, 0) > MANY:
        return
    with os.scandir(folder) as found:
        names = [entry.name for entry in found]
    _entries[folder] = len(names)
    for name in names:
        if LEFT.fullmatch(name):
            _remove_unless_locked(folder / name)


def _remove_unless_locked(part: Path) -> None:
    with contextlib.suppress(OSError):  # it is written now, or gone, or another user's
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part) if part.is_dir() else part.unlink()
            log.warning("removed %s: a run that was killed had left it", part)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Give something damaged another name beside its own, so that it is out of the way, not lost.

    Returns:
        Its new path: `NAME.damaged`, or `NAME.damaged-2` and so on.

    Raises:
        StorageError: it cannot be renamed.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.damaged{f'-{number}' * (number > 1)}")).exists():
        number += 1
    with storing(path):
        path.rename(target)
    return target


def append_lines(path: Path, data: bytes) -> None:
    """Append whole lines to a file, all or none; the caller holds a lock.

    A last line without an end, torn by a crash, is removed first; a failed write leaves no trace.
    """
    with storing(path):
        handle = opener(str(path), os.O_RDWR | os.O_CREAT)
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
