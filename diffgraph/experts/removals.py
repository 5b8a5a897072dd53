"""Who was taken out of a library for good, and why? So that no discover takes them in again."""

import json
from collections.abc import Iterable
from pathlib import Path

from diffgraph.artifacts import write_text
from diffgraph.errors import MissingInput
from diffgraph.foreign_files import parse_strict, read_foreign

MOST_BYTES = 16 << 20


class Removals:
    """Reasons by reference, or by `source:model` for all versions, in one small file.

    Whoever writes holds the library's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def among(self, refs: Iterable[str]) -> dict[str, str]:
        """Return which of these experts were taken out, and why; raises `MissingInput`."""
        removed = self._read()
        if not removed:
            return {}
        found = ((ref, removed.get(ref, removed.get(ref.rpartition("@")[0]))) for ref in refs)
        return {ref: why for ref, why in found if why is not None}

    def add(self, ref: str, reason: str) -> None:
        """Note why an expert, or all versions of `source:model`, were taken out."""
        self._write({**self._read(), ref: reason})

    def discard(self, ref: str) -> bool:
        """Forget that it was taken out; return whether it was."""
        removed = self._read()
        was = removed.pop(ref, None) is not None
        if was:
            self._write(removed)
        return was

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        try:
            told = parse_strict(read_foreign(self._path, MOST_BYTES))
            return {str(ref): str(why) for ref, why in told.items()}
        except (ValueError, AttributeError) as error:
            # to go on would bring back what somebody had to take down
            raise MissingInput(f"{self._path} is damaged: {error}; mend it by hand") from error

    def _write(self, removed: dict[str, str]) -> None:
        write_text(self._path, json.dumps(removed, indent=1, ensure_ascii=False))
