"""What does one source say about a file: a sidecar, its own header, its name?"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel

from diffgraph.crawlers.licences import terms_of
from diffgraph.experts.expert import NOT_KNOWN, Licence

MOST_TAGS = 12
MOST_STRENGTH = 2.0


class FileMetadata(BaseModel, frozen=True):
    """What one source says of a file; empty where it says nothing."""

    name: str = ""
    description: str = ""
    base_model: str = ""
    tags: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    strength: float | None = None
    licence: Licence | None = None
    nsfw: bool = False
    real_person: bool = False
    minor: bool = False
    withdrawn: str = ""
    published_at: datetime | None = None
    sha256: str = ""
    """Of the file that it speaks of."""
    size_bytes: int = 0


def combined(said: Iterable[FileMetadata]) -> FileMetadata:
    """Return what several sources say, the first one first; a warning of one is a warning."""
    found: dict[str, object] = {}
    for one in said:
        for field, value in one:
            if value and not found.get(field):
                found[field] = value
    return FileMetadata.model_validate(found)


def licence_of_a_file(name: str, creator: str) -> Licence:
    """Return the licence of somebody's own file: only what is known to forbid forbids.

    Args:
        name: As the file states it; "" if it does not.
        creator: Who made it, as far as is said.
    """
    terms = terms_of(name) if name else None
    if terms is None:
        stated = f" (stated: {name})" if name else ""
        return Licence(name=f"{NOT_KNOWN}{stated}", creator=creator)
    return Licence(
        allow_derivatives=terms.derivatives,
        allow_commercial_use=("Sell",) if terms.sales else (),
        allow_different_licence=terms.other_licence,
        credit_required=terms.credit,
        creator=creator,
        name=name,
    )
