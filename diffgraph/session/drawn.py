"""What was drawn, with what, and why?"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path

from PIL.Image import Image

from diffgraph.errors import InputError
from diffgraph.families.family import SamplerConfig
from diffgraph.generation import png_info, save_png
from diffgraph.merging.plan import MergePlan
from diffgraph.planner.selection import Selection

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Drawn:
    """An image, and all that made it; a notebook shows it."""

    image: Image
    prompt: str
    drawn_text: str
    """What the base model was told."""
    seed: int
    plan: MergePlan
    sampler: SamplerConfig
    selection: Selection | None = None
    """Which experts were chosen for the prompt; nothing where the plan was given."""
    reasons: tuple[str, ...] = ()
    """Why these experts, a line each."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What else its file says, by the name of the text chunk: `parameters` for A1111, credits."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG file, whole, that says its plan, prompt and seed; return where it is.

        Raises:
            StorageError: it cannot be written.
        """
        save_png(Path(path), self.image, self.plan, self.prompt, self.seed, self.metadata)
        return Path(path)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows: the file that `save` writes."""
        written = io.BytesIO()
        texts = png_info(self.plan, self.prompt, self.seed, self.metadata)
        self.image.save(written, "PNG", pnginfo=texts)
        return written.getvalue()


def seeds_of(seeds: int | Sequence[int] | None, count: int | None) -> list[int]:
    """Return a seed an image, or raise `InputError`."""
    try:
        if seeds is None:
            seeds = range(1 if count is None else count)
        found = [index(seed) for seed in ([seeds] if isinstance(seeds, int) else seeds)]
    except TypeError:
        raise InputError("seeds and count are whole numbers") from None
    if not found or (count is not None and count != len(found)):
        raise InputError(f"an image needs a seed: seeds are {len(found)}, count is {count}")
    for seed in found:
        if not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"a seed is from 0 to {LARGEST_SEED}, not {seed}")
    return found
