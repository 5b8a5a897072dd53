"""Which files stay in their owners' folders and were never read in full? What is in them?

`discover` takes a file by its header alone when that tells the family. Before experts are measured
each file is hashed and looked at, number by number: who cannot be merged is refused by then.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.crawlers.admission import read_in_place
from diffgraph.errors import ExpertError, MissingInput
from diffgraph.experts.expert import Expert
from diffgraph.experts.hashing import HashedBytes, hash_files
from diffgraph.experts.library import Library
from diffgraph.families import get_family

if TYPE_CHECKING:
    from torch import Tensor


def unread_in_place(library: Library, family: str) -> list[Expert]:
    """Return a family's experts that are known by their files' headers only."""
    return [
        expert
        for expert in library.experts("ready")
        if expert.family == family and expert.place and expert.coverage is None
    ]


def read_files_in_place(home: Path, family_name: str) -> dict[str, str]:
    """Hash and read what is known by its header; return who cannot be measured, and why.

    Raises:
        StorageError: the home cannot be written; what was read so far is kept.
    """
    library, family = Library(home), get_family(family_name)

    @cache
    def base() -> "Mapping[str, Tensor]":
        return family.load("cpu").parameters()

    failed: dict[str, str] = {}
    for expert, error in _hashed(unread_in_place(library, family_name), library):
        try:
            if error is not None:
                raise error
            row = read_in_place(expert, library, base(), family)
        except (MissingInput, ExpertError) as why:
            failed[expert.ref] = str(why)
        else:
            if row.status != "ready":
                failed[expert.ref] = row.reason
    return failed


def _hashed(
    experts: list[Expert], library: Library
) -> "Iterator[tuple[Expert, ExpertError | MissingInput | None]]":
    """Yield each expert once its file is hashed, with what kept it from being hashed."""
    progress = HashedBytes(sum(expert.size_bytes for expert in experts))
    places = (Path(expert.place) for expert in experts)
    hashed = hash_files(places, library.references, progress.told)
    for expert, (_, found) in zip(experts, hashed, strict=True):
        progress.note = expert.name
        yield expert, found if isinstance(found, ExpertError | MissingInput) else None
