"""What is an image called that was drawn? By a name that no other process takes meanwhile."""

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from diffgraph.artifacts import scratch_folder, storing, take_free_name
from diffgraph.errors import InputError
from diffgraph.merging.plan_files import read_plan
from diffgraph.prompting.syntax import read_prompt

if TYPE_CHECKING:
    from diffgraph.session.drawn import Drawn

LONGEST_NAME = 48


def write_image(image: "Drawn", folder: Path) -> Path:
    """Write an image into a folder and return its path: one that is free, or has this very image.

    Prompts may look alike as names are made of them, and two processes may draw one prompt.

    Raises:
        StorageError: it cannot be written.
    """
    first = folder / _file_name(image)
    with scratch_folder(first) as scratch:
        part = image.save(scratch / first.name)
        with storing(first):
            for path in _numbered(first):
                if take_free_name(part, path):
                    return path
                with suppress(InputError):
                    if read_plan(path)[:4] == (image.plan, image.prompt, image.seed, image.sampler):
                        part.replace(path)
                        return path
    raise AssertionError("names do not end")


def _file_name(image: "Drawn") -> str:
    """Return a name that a person recognises and no prompt can make a path of."""
    text = read_prompt(image.prompt).text.lower()
    words = re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:LONGEST_NAME].strip("-")
    return f"{words or 'image'}-{image.plan.id[:8]}-{image.seed}.png"


def _numbered(first: Path) -> Iterator[Path]:
    yield first
    yield from (first.with_stem(f"{first.stem}-{number}") for number in count(2))
