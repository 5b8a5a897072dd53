"""What was found out about a key need not be found out again in the next thousand files.

Trainers write the same few hundred keys into every file. What is kept is bounded: a stranger's key
may be long, and no two of them the same.
"""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

KEYS_KEPT = 8192
LONGEST_KEPT = 200  # characters
Found = TypeVar("Found")


def known_by(key: str, find: "_lru_cache_wrapper[Found]") -> Found:
    """Return what a cached function says of a key; of a long one it is not kept."""
    return find(key) if len(key) <= LONGEST_KEPT else find.__wrapped__(key)
