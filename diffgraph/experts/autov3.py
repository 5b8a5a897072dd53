"""By which hash do Civitai and A1111 know a LoRA? By AutoV3: that of its tensors alone.

A file keeps it when somebody writes other metadata into its header. It takes reading the whole
file, so what was found is kept: a line a file, by the SHA-256 of all of it.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

from diffgraph.artifacts import READ_BYTES
from diffgraph.errors import MissingInput, StorageError
from diffgraph.experts.line_store import LineStore
from diffgraph.foreign_files import open_foreign

DIGITS = 12
KEPT = re.compile(rb'"([0-9a-f]{12})"')
LENGTH_BYTES = 8  # of a safetensors file, before its header
LARGEST = 1 << 40


def autov3_of(path: Path) -> str:
    """Return the first 12 digits of the SHA-256 of a safetensors file without its header.

    Raises:
        MissingInput: it is not there, cannot be read, or ends before its tensors.
    """
    digest = hashlib.sha256()
    with open_foreign(path, LARGEST) as file:
        try:
            start = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
            if start > os.fstat(file.fileno()).st_size:
                raise MissingInput(f"{path.name!r} is no whole safetensors file")
            file.seek(start)
            while part := file.read(READ_BYTES):
                digest.update(part)
        except OSError as error:
            raise MissingInput(f"{path.name!r} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:DIGITS]


class AutoV3Hashes:
    """The hashes of files that were asked for.

    Args:
        path: The file of lines; where its folder is not there, they are kept in memory only.
    """

    def __init__(self, path: Path) -> None:
        self._store = LineStore(path)
        self._found: dict[str, str] = {}

    def of(self, sha256: str, path: Path) -> str:
        """Return AutoV3 of the file with this content; raises `MissingInput` as `autov3_of`."""
        if sha256 not in self._found:
            kept = KEPT.fullmatch(self._store.get(sha256) or b"")
            self._found[sha256] = kept[1].decode() if kept else autov3_of(path)
            if not kept and self._store.path.parent.is_dir():
                with suppress(StorageError):  # a home that cannot be written can be drawn from
                    self._store.put([(sha256, json.dumps(self._found[sha256]))])
        return self._found[sha256]
