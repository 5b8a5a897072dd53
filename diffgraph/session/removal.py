"""How is an expert taken out for good, after a takedown or a mistake?

Row, page, file, cards and scores go; that it was removed, and why, is remembered, so that no
discover takes it in again. Said first, done afterwards, its row last: a removal that is killed has
taken effect, and the same command ends it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from diffgraph.artifacts import storing
from diffgraph.errors import DamagedTable, InputError, SnapshotError
from diffgraph.experts.expert import REF
from diffgraph.experts.library import Library
from diffgraph.graph.in_force import open_in_force
from diffgraph.graph.registration import Cards
from diffgraph.graph.schema import SCORES
from diffgraph.homes import FAMILIES, family_folder
from diffgraph.results import Result, Rows
from diffgraph.tables import read_table

LINEAGE = re.compile(r"[a-z0-9_]+:[\w.~/-]+")


class Removal(Result):
    """What was taken out of the library, or may come back."""

    ref: str
    reason: str = ""
    experts: tuple[str, ...] = ()
    """References of those whose rows were in the library."""
    scores: int = 0
    """Files of scores that went."""
    still_in: Mapping[str, str] = Field(default_factory=dict)
    """Family → its graph in force, if that still holds one of them."""
    allowed: bool = False
    """Whether it may come back."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield what went, and who is still to be told."""
        if self.allowed:
            yield f"{self.ref} may come back: `diffgraph discover` brings it"
            return
        count = len(self.experts)
        yield (
            f"{self.ref} is out for good ({self.reason}): {count} expert{'s' * (count != 1)} with "
            f"pages, cards and files, {self.scores} files of scores; nothing in your own folders"
        )
        for family, graph in self.still_in.items():
            yield (
                f"the graph in force of {family}, {graph}, still names it: it is not chosen from "
                "it any more, and the next `diffgraph build` makes one without"
            )


def remove(home: Path, ref: str, reason: str) -> Removal:
    """Take an expert, or all versions of `source:model`, out for good.

    Raises:
        InputError: that is no reference, or no reason.
        StorageError: the home cannot be written.
    """
    if not REF.match(ref) and not LINEAGE.fullmatch(ref):
        raise InputError(
            f"not a reference (source:model@version, or source:model): {ref[:80]!r}; "
            "`diffgraph show experts` lists them"
        )
    if not reason.strip():
        raise InputError("say why, with --reason: it is told whenever somebody asks for it")
    library = Library(home)
    leaving = library.remove(ref, " ".join(reason.split()))
    refs = {expert.ref for expert in leaving}
    Cards(home / "cards").forget({expert.page_sha256 for expert in leaving})
    scores = _forget_scores(home / "scores", library)
    library.purge()
    return Removal(
        ref=ref,
        reason=reason,
        experts=tuple(sorted(refs)),
        scores=scores,
        still_in=_graphs_with(home, library),
    )


def scored_expert(part: Path) -> str | None:
    """Return whose scores a file holds; None if it is empty, damaged or gone."""
    try:
        table = read_table(part, SCORES)
    except (DamagedTable, FileNotFoundError):
        return None
    return str(table["expert"][0]) if table.num_rows else None


def _forget_scores(folder: Path, library: Library) -> int:
    gone = 0
    for part in folder.glob("*.parquet"):
        expert = scored_expert(part)
        if expert is not None and library.why_removed(expert) is not None:
            with storing(part):
                part.unlink(missing_ok=True)
            gone += 1
    return gone


def _graphs_with(home: Path, library: Library) -> dict[str, str]:
    found = {}
    for folder in sorted((home / FAMILIES).glob("*/")):
        try:
            graph = open_in_force(family_folder(home, folder.name))
        except SnapshotError:
            continue  # whoever uses it is told
        refs = graph.nodes["ref"].to_pylist() if graph else []
        if graph and library.removals.among(refs):
            found[folder.name] = graph.id
    return found
