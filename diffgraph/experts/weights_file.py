"""How is an untrusted weights file opened safely?

Only safetensors: a JSON header, then raw numbers, nothing that could run. The header is checked
against the size of the file before anything is allocated. The numbers are mapped into memory: a
tensor costs nothing until it is used, and the system may take its pages back at any time.
https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import mmap
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diffgraph.errors import DamagedFile, MissingInput, UnsafeFile
from diffgraph.experts.other_formats import BYTES, other_format
from diffgraph.foreign_files import open_foreign, parse_json

MAX_FILE_BYTES = 1 << 50
MAX_HEADER_BYTES = 16 << 20
MAX_HEADER_VALUES = 200_000
MAX_TENSORS = 20_000
MAX_KEY_CHARACTERS = 10_000
MAX_NAMES_CHARACTERS = 4 << 20  # of all keys together
MAX_NUMBERS = 1 << 50  # that a shape may stand for, its zeros left out
MAX_DIMENSIONS = 8
LENGTH_BYTES = 8
READ_BYTES = 16 << 20
SCANNED = 1 << 20  # numbers that are looked at together
READS_ANYWHERE = platform.machine().lower() in {"x86_64", "amd64", "aarch64", "arm64"}
"""Whether the processor reads numbers at any address: nothing in the format aligns them."""
MAP_NORESERVE = 0x4000  # Linux; Python names it from 3.13 on
SHOWN = 80  # characters of untrusted text that may appear in a message

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

CODES = {dtype: code for code, dtype in DTYPES.items()}

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the file, and what it is."""

    dtype: torch.dtype
    shape: torch.Size
    start: int  # bytes from the beginning of the file
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


class WeightsFile:
    """A mapped weights file whose header has been checked.

    The mapping lives as long as its tensors do.
    """

    def __init__(
        self,
        path: Path,
        mapping: mmap.mmap,
        entries: Mapping[str, Entry],
        metadata: Mapping[str, str],
        is_copy: bool = False,
    ):
        self.path = path
        self.size = len(mapping)
        self.entries = entries
        self.metadata = metadata
        self._mapping = mapping
        self._is_copy = is_copy

    def tensor(self, key: str) -> Tensor:
        """Return a tensor as it is stored: a view of the file, of which nothing is read yet."""
        entry = self.entries[key]
        if (
            not self._is_copy and self._mapping.size() < self.size
        ):  # pages that are gone would kill the process
            raise DamagedFile(f"{self.path.name}: has been cut short while {shown(key)} was read")
        if not entry.bytes:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if entry.start % entry.dtype.itemsize and not READS_ANYWHERE:
            data = bytearray(self._mapping[entry.start : entry.end])
            return torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)
        count = entry.bytes // entry.dtype.itemsize
        flat = torch.frombuffer(self._mapping, dtype=entry.dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def check(self, key: str) -> None:
        """Raise `DamagedFile`, with how many there are, when a tensor holds NaN or infinity."""
        if bad := non_finite(self.tensor(key)):
            raise DamagedFile(
                f"{self.path.name}: {shown(key)} holds {bad} NaN or infinite numbers"
                f" of {self.entries[key].shape.numel()}"
            )

    def release(self, key: str) -> None:
        """Let the system take back the memory that holds a tensor; using it reads it again."""
        if self._is_copy:
            return  # nothing would bring it back
        entry = self.entries[key]
        first = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE  # pages that are its alone
        length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED, first, length)


def non_finite(value: Tensor) -> int:
    """Return how many NaN and infinite numbers a tensor holds."""
    if not value.dtype.is_floating_point:
        return 0
    pieces = value.reshape(-1).split(SCANNED)
    return sum(int((~torch.isfinite(piece.float())).sum()) for piece in pieces)


def shown(text: str) -> str:
    """Return untrusted text so that it is safe and short in a message."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def open_weights(path: Path, copied: bool = False) -> WeightsFile:
    """Open a safetensors file; a pickle is an `UnsafeFile`, a lying header a `DamagedFile`.

    Args:
        path: where it is.
        copied: read it into memory instead of mapping it: see references.py.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES and path.is_file():
        raise UnsafeFile(f"{path.name}: {path.suffix} files can run code; only safetensors is read")
    try:
        file = open_foreign(path, MAX_FILE_BYTES)
    except MissingInput as error:
        raise MissingInput(f"no weights file at {path}: {error}") from error
    with file:
        try:
            return _read_header(path, file, os.fstat(file.fileno()).st_size, copied)
        except OSError as error:
            raise DamagedFile(f"{path.name}: cannot be read: {error.strerror}") from error


def header_bytes(header: Mapping[str, Any], **style: Any) -> bytes:
    """Return how a file with this header begins, its tensors aligned; `style` is json's."""
    text = json.dumps(header, **style).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _mapped(file: BinaryIO) -> mmap.mmap:
    """Map a file: private, so that nothing can be written back, and none of it set aside."""
    if sys.platform == "win32":
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | (MAP_NORESERVE if sys.platform == "linux" else 0)
    return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _copied(path: Path, file: BinaryIO, size: int) -> mmap.mmap:
    """Read a file into memory of our own, whole and unchanged meanwhile."""
    memory, before = mmap.mmap(-1, size), os.fstat(file.fileno())
    file.seek(0)
    view, filled = memoryview(memory), 0
    while filled < size and (
        came := file.readinto(view[filled : filled + READ_BYTES])  # type: ignore[attr-defined]
    ):
        filled += came
    view.release()
    after = os.fstat(file.fileno())
    if filled < size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DamagedFile(f"{path.name}: was changed while it was read")
    return memory


def _read_header(path: Path, file: BinaryIO, size: int, copied: bool) -> WeightsFile:
    start = file.read(BYTES)
    if found := other_format(start, MAX_HEADER_BYTES):
        error, what = found
        raise error(f"{path.name}: is {what}")
    if len(start) <= LENGTH_BYTES:
        raise DamagedFile(f"{path.name}: {size} bytes are too few for a safetensors file")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    room = min(size - LENGTH_BYTES, MAX_HEADER_BYTES)
    if length > room:
        raise DamagedFile(f"{path.name}: claims a header of {length} bytes, at most {room} can be")
    file.seek(LENGTH_BYTES)
    header = _parse(path, file.read(length))
    metadata = _metadata(path, header.pop("__metadata__", None))
    _demand_few(path, header)
    first = LENGTH_BYTES + length
    entries = {key: _entry(path, key, value, first) for key, value in header.items()}
    _check_layout(path, entries, first, size)
    data = _copied(path, file, size) if copied else _mapped(file)
    return WeightsFile(path, data, entries, metadata, copied)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key appears twice")
        return found

    try:
        header = parse_json(data, MAX_HEADER_VALUES, unique)
    except ValueError as error:
        raise DamagedFile(f"{path.name}: its header is not JSON ({str(error)[:SHOWN]})") from error
    if not isinstance(header, dict):
        raise DamagedFile(f"{path.name}: its header is not an object")
    return header


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DamagedFile(f"{path.name}: its metadata are not texts by name")
    return found


def _demand_few(path: Path, header: Mapping[str, Any]) -> None:
    """Every name costs a search for its like: a thousand times what it costs to read it."""
    if len(header) > MAX_TENSORS:
        raise DamagedFile(f"{path.name}: names {len(header)} tensors, at most {MAX_TENSORS} can be")
    if (length := sum(map(len, header))) > MAX_NAMES_CHARACTERS:
        raise DamagedFile(f"{path.name}: its tensors' names have {length} characters together")


def _entry(path: Path, key: str, value: Any, first: int) -> Entry:
    if len(key) > MAX_KEY_CHARACTERS:
        why = f"has {len(key)} characters, at most {MAX_KEY_CHARACTERS} can be"
        raise _damaged(path, key, why)
    if not isinstance(value, dict):
        raise _damaged(path, key, "is not described by an object")
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _damaged(path, key, f"has an unknown type {shown(str(dtype))}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS or _numbers(shape) > MAX_NUMBERS:
        raise _damaged(path, key, "has an impossible shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _damaged(path, key, "has impossible offsets")
    start, end = offsets
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - start != needed:
        raise _damaged(path, key, f"needs {needed} bytes but claims {end - start}")
    return Entry(DTYPES[dtype], torch.Size(shape), first + start, first + end)


def _damaged(path: Path, key: str, why: str) -> DamagedFile:
    return DamagedFile(f"{path.name}: {shown(key)} {why}")


def _numbers(shape: list[int]) -> int:
    """Return how many numbers a shape stands for; where it holds none, as if it held some."""
    return math.prod(shape) or math.prod(size or 1 for size in shape)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 62 for value in values
    )


def _check_layout(path: Path, entries: Mapping[str, Entry], first: int, size: int) -> None:
    """Tensors must lie one after the other, from the header to the end of the file."""
    position = first
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise DamagedFile(f"{path.name}: {shown(key)} overlaps another tensor or leaves a gap")
        position = entry.end
    if position != size:
        raise DamagedFile(f"{path.name}: holds {size} bytes, its header describes {position}")
