"""What do the proofs work with? The base, the community, the scorers and the art, as they ship."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from diffgraph.errors import MissingInput
from diffgraph.families.emoji64 import ASSETS, EMOJI64
from diffgraph.families.emoji64.scorers import SCORERS
from diffgraph.families.stable_diffusion import StableDiffusion
from diffgraph.scoring import Scorer, score
from recipes.emoji64.art import Art, load_art
from recipes.emoji64.community import COMMUNITY, Recipe
from recipes.emoji64.image_sampler import ImageSampler, read_updates
from recipes.emoji64.live_weights import Updates
from recipes.emoji64.truth import Composition, as_float


@dataclass(frozen=True)
class ProofInputs:
    """Everything that images are drawn with and judged by, on one device."""

    art: Art
    model: StableDiffusion
    updates: Mapping[str, Updates]
    scorers: Mapping[str, Scorer]

    @classmethod
    def open(cls, made: Path, cache: Path, device: str) -> "ProofInputs":
        """Open what was made below a folder; what is not there is taken from what ships.

        Args:
            made: may hold `base/`, `weights/` and `scorers/`.
            cache: the packed art.
            device: `cuda` or `cpu`.

        Raises:
            MissingInput: neither place has it.
        """
        base = _first(made / "base", ASSETS / "base")
        weights = _first(made / "weights", ASSETS / "hub" / "files")
        folder = _first(made / "scorers", ASSETS / "scorers")
        model = StableDiffusion.from_folder("emoji64", base, EMOJI64.sampler, device)
        files = {recipe.slug: weights / f"{recipe.slug}.safetensors" for recipe in COMMUNITY}
        updates = read_updates(
            {slug: path for slug, path in files.items() if path.is_file()}, model
        )
        scorers = {
            name: kind.load(folder / name, model.tokenizer, device)
            for name, kind in SCORERS.items()
        }
        art = load_art(cache)
        return cls(replace(art, images=art.images.to(device)), model, updates, scorers)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.model.device

    @property
    def community(self) -> list[Recipe]:
        """The experts whose files are there."""
        return [recipe for recipe in COMMUNITY if recipe.slug in self.updates]

    def sampler(self, batch: int) -> ImageSampler:
        """Return a sampler for so many prompts at once. Use one at a time: they share a model."""
        return ImageSampler(self.model, self.updates, batch)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the five scores of uint8 images: (n, 5), on the CPU."""
        return torch.cat(
            [
                score(
                    self.scorers,
                    as_float(images[start : start + 512]),
                    prompts[start : start + 512],
                )
                for start in range(0, len(images), 512)
            ]
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The art's subjects by name; some names have no picture, and are left out."""
        drawn = sorted(set(self.art.subject.tolist()))
        return {self.art.subjects[number].name: number for number in drawn}

    @cached_property
    def slugs(self) -> dict[str, str]:
        """The community's slugs by reference."""
        return {recipe.ref: recipe.slug for recipe in self.community}


@dataclass(frozen=True)
class BenchPrompt:
    """A prompt of a shipped set, with its truth and its right experts."""

    id: str
    text: str
    composition: Composition
    experts: tuple[str, ...]  # slugs


def bench_prompts(inputs: ProofInputs, count: int | None = None) -> list[BenchPrompt]:
    """Return the bench's prompts, or an even part of them."""
    rows = pq.read_table(ASSETS / "prompts" / "bench.parquet").to_pylist()
    prompts = [
        BenchPrompt(
            row["id"],
            row["prompt"],
            Composition(inputs.numbers[row["subject"]], row["style"], tuple(row["treatments"])),
            tuple(inputs.slugs[ref] for ref in row["experts"] if ref in inputs.slugs),
        )
        for row in rows
        if row["subject"] in inputs.numbers
    ]
    usable = [prompt for prompt in prompts if prompt.experts]
    return usable if count is None else usable[:: max(1, len(usable) // count)][:count]


def _first(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise MissingInput(f"none of these folders is there: {', '.join(map(str, folders))}")
