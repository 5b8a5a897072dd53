"""Which weights ship with a family? They are referred to where they are, never copied."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from diffgraph.families import FAMILIES


class BundledFiles:
    """The weights files of hub folders, by their content.

    Args:
        hubs: the folders; by default those that ship with the families.
    """

    def __init__(self, hubs: Iterable[Path] | None = None) -> None:
        shipped = (family.hub for family in FAMILIES.values() if family.hub is not None)
        self._hubs = tuple(shipped if hubs is None else hubs)

    def path_of(self, sha256: str) -> Path | None:
        """Return the file with this content; None if there is none."""
        paths = (hub / files[sha256] for hub, files in self._files if sha256 in files)
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def _files(self) -> tuple[tuple[Path, dict[str, str]], ...]:
        """What each hub holds: SHA-256 -> path below it."""
        found = []
        for hub in self._hubs:
            try:
                about = json.loads((hub / "hub.json").read_bytes())
            except (OSError, ValueError):
                continue  # a family whose assets are still to be made has no hub yet
            files = about.get("files") if isinstance(about, dict) else None
            if isinstance(files, dict):
                found.append((hub, {str(key): str(path) for key, path in files.items()}))
        return tuple(found)
