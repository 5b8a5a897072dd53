"""How is a weights file written that is larger than what fits in memory?

A safetensors file begins with a header that says where each tensor lies. That is known before any
tensor is: the header is written first, the whole room is reserved on the disk, and then each piece
goes straight to its place, from several threads if need be.
https://huggingface.co/docs/safetensors/index#format
"""

import errno
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.artifacts import new_file
from diffgraph.experts.weights_file import CODES, header_bytes

CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""What file systems say that cannot reserve room; a full one is noticed while writing, then."""


class WeightsWriter:
    """A weights file that is being written; made by `new_weights`."""

    def __init__(self, handle: int, places: Mapping[str, int], dtype: torch.dtype):
        self._handle = handle
        self._places = places
        self.dtype = dtype

    def write(self, key: str, values: Tensor, first: int = 0) -> None:
        """Write contiguous entries of the file's type, from a tensor's entry `first` on."""
        if values.dtype != self.dtype or not values.is_contiguous():
            raise ValueError(f"{key}: needs contiguous {self.dtype}")
        data = memoryview(values.reshape(-1).view(torch.uint8).numpy().data)
        at = self._places[key] + first * self.dtype.itemsize
        while data:
            done = os.pwrite(self._handle, data, at)
            data, at = data[done:], at + done


@contextmanager
def new_weights(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> Iterator[WeightsWriter]:
    """Yield the writer of a file that takes its name when the block ends well.

    Args:
        path: of the file.
        shapes: of all tensors by key, in the order they lie in the file.
        dtype: of all of them.
        metadata: texts by name.

    Raises:
        StorageError: the file cannot be written, there is no room for it, say. Nothing is left.
    """
    header, places, size = _header(shapes, dtype, metadata)
    with new_file(path) as part, part.open("r+b") as file:
        handle = file.fileno()
        _reserve(handle, size)
        file.write(header)
        file.flush()
        yield WeightsWriter(handle, places, dtype)


def _header(
    shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    starts, end = {}, 0
    for key, shape in shapes.items():
        starts[key], end = end, end + math.prod(shape) * dtype.itemsize
        offsets = [starts[key], end]
        entries[key] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": offsets}
    header = header_bytes(entries, ensure_ascii=False, separators=(",", ":"))
    places = {key: len(header) + start for key, start in starts.items()}
    return header, places, len(header) + end


def _reserve(handle: int, size: int) -> None:
    """Take the room at once: a full disk is told before hours of work and not after."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
