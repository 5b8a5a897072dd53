"""What may a run be asked for? A form shows the bounds of these types, and flows hold them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from diffgraph.errors import InputError

LONGEST_PATH = 4096
LARGEST_SEED = 2**31 - 1


def _usable(path: Path) -> Path:
    text = str(path)
    if "\0" in text or len(text) > LONGEST_PATH:
        raise ValueError("is no path")
    return path


def _known(source: str) -> str:
    from diffgraph.session.hubs import check_source

    try:
        return check_source(source)
    except InputError as error:
        raise ValueError(str(error)) from error


Place = Annotated[
    Path,
    AfterValidator(_usable),
    WithJsonSchema({"type": "string", "format": "path", "minLength": 1, "maxLength": LONGEST_PATH}),
]
"""A file or a folder."""
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z]+$")]
"""What a snapshot or a planner is called; never a path."""
Address = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^https?://\S+$")]
Source = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_known)]
"""A kind of hub: ours, or what a package adds."""

Limit = Annotated[int, Field(ge=1, le=10**9)]
"""So many at most."""
Steps = Annotated[int, Field(ge=1, le=10**6)]
"""Of a training: without one, nothing is learnt."""
TrainingPrompts = Annotated[int, Field(ge=2, le=10**6)]
"""Some are kept back to compare planners on, so one is too few."""
ReferencePrompts = Annotated[int, Field(ge=1, le=10**5)]
ImagesAPrompt = Annotated[int, Field(ge=1, le=1000)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000)]
Methods = Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
