"""Which of our parameters does a fused parameter of another tool hold?

Some tools keep the query, key and value of an attention as one matrix, or the halves of one in the
other order. Their rows are then, in order, the rows of several parts of ours.
"""

from typing import NamedTuple, TypeAlias


class Part(NamedTuple):
    """One of `of` equal groups of rows of our parameter or module; by default all of them."""

    name: str
    index: int = 0
    of: int = 1


Meaning: TypeAlias = str | tuple[Part, ...]
"""What their name stands for: one of ours, or several whose rows it holds one after the other."""


def parts_of(meaning: Meaning) -> tuple[Part, ...]:
    """Return a meaning as parts."""
    return (Part(meaning),) if isinstance(meaning, str) else meaning
