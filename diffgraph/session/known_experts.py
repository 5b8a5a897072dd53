"""Which experts may a plan name? Those of a home, and those that ship with the family."""

from functools import cached_property
from pathlib import Path

from diffgraph.errors import MissingInput
from diffgraph.experts.expert import Expert, Licence
from diffgraph.experts.library import Library
from diffgraph.families import Family
from diffgraph.session.snapshots import snapshot_at


class KnownExperts:
    """The experts of a home's library and, behind them, those that ship with the family."""

    def __init__(self, home: Path, family: Family) -> None:
        self.library = Library(home)
        self.family = family

    def get(self, ref: str) -> Expert:
        """Return the expert of this reference.

        Raises:
            MissingInput: it is not known, or was taken out of this home.
        """
        if (why := self.library.why_removed(ref)) is not None:
            raise MissingInput(f"{ref} was removed from {self.library.folder.parent}: {why}")
        return self.library.find(ref) or self.bundled.get(ref) or self.library.get(ref)

    def path_of(self, sha256: str) -> Path:
        """Return the weights file with this content; raises `MissingInput`."""
        return self.library.path_of(sha256)

    @cached_property
    def bundled(self) -> dict[str, Expert]:
        """The experts of the snapshot that ships with the family."""
        folder = self.family.assets and self.family.assets / "snapshot"
        if not folder or not folder.is_dir():
            return {}
        kept = ("ref", "kind", "family", "name", "sha256", "size_bytes", "format", "status")
        return {
            row["ref"]: Expert(
                **{name: row[name] for name in kept},
                reason=row["reason"],
                licence=Licence(
                    allow_derivatives=row["allow_derivatives"],
                    name=row["licence"],
                    creator=row["creator"],
                ),
            )
            for row in snapshot_at(folder).nodes.to_pylist()
        }
