"""Is what a file adds finite, and how large is it, block by block?

Every number of the file is looked at once, one parameter at a time.
"""

import math
from dataclasses import replace

import torch

from diffgraph.errors import DamagedFile
from diffgraph.experts.delta import Delta
from diffgraph.experts.updates import CheckpointUpdate, Update, norm

LARGEST = torch.finfo(torch.float32).max


def inspect(delta: Delta) -> Delta:
    """Return a delta with the norms of its blocks, without parameters that equal the base's.

    Raises:
        DamagedFile: NaN or infinite numbers, with the key.
    """
    squares: dict[str, float] = {}
    updates: dict[str, Update] = {}
    for name, update in delta.updates.items():
        size = norm(update)
        if not size <= LARGEST:  # a NaN is not, either
            delta.check(name)
            raise DamagedFile(
                f"{delta.file_name}: what it adds to {name} is infinite or not a number"
            )
        delta.release(name)
        if size == 0 and isinstance(update, CheckpointUpdate):
            continue
        updates[name] = update
        block = block_of(name)
        squares[block] = squares.get(block, 0.0) + size * size
    norms = {block: math.sqrt(square) for block, square in sorted(squares.items())}
    coverage = replace(delta.coverage, parameters=len(updates), norms=norms)
    return replace(delta, updates=updates, coverage=coverage)


def block_of(name: str) -> str:
    """Return the block that a parameter belongs to."""
    parts = name.split(".")
    numbered = len(parts) > 2 and parts[2].isdigit()
    return ".".join(parts[: 3 if numbered else 2])
