"""Where does the recipe read and write, and how much does it make?"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffgraph.errors import MissingInput
from diffgraph.families.emoji64 import ASSETS
from recipes.emoji64.art import Art, load_art
from recipes.emoji64.community import COMMUNITY, Recipe, recipe_of
from recipes.emoji64.joint_training import JointConfig
from recipes.emoji64.joint_training_data import CombinationConfig
from recipes.emoji64.loop import LoopConfig
from recipes.emoji64.proofs import ProofConfig
from recipes.emoji64.scorer_bank import BankConfig
from recipes.emoji64.scorer_batches import ScorerTraining
from recipes.emoji64.scorer_data import DataConfig

SEED = 20260

AUTOENCODER = LoopConfig(seconds=150, learning_rate=1.5e-3, seed=SEED)
DENOISER = LoopConfig(seconds=280, learning_rate=1.2e-3, seed=SEED + 1)
REFINING = LoopConfig(seconds=165, learning_rate=6e-4, seed=SEED + 2)
MERGED = JointConfig()
DRAWN = DataConfig()
SCORER_TRAINING = ScorerTraining()
REHEARSED = ("mood_faces", "halftone", "green_tint", "red_frame")
"""A checkpoint and adapters that the bench asks for together: enough for every later stage."""


@dataclass(frozen=True)
class RecipeSettings:
    """Where the recipe reads and writes, and how big it is."""

    cache: Path  # the packed art
    out: Path  # base/, weights/, scorers/ and proofs/ appear below it
    assets: Path = ASSETS  # what is published goes here
    docs: Path = Path("docs")  # the document on what is proved goes here
    device: str = "cuda"
    gpus: tuple[int, ...] = (0,)  # that experts and scorers are trained on
    workers: int = 4  # processes that train experts
    autoencoder: LoopConfig = AUTOENCODER
    denoiser: LoopConfig = DENOISER
    batch: int = 768
    refining: LoopConfig = REFINING
    refining_batch: int = 384
    expert_batch: int = 224
    expert_pictures: int = 3000
    expert_steps: float = 1.0  # times each recipe's own; small for a rehearsal
    joint: JointConfig = MERGED  # how the good adapters learn to be merged
    pictures: int | None = None  # of the art; None is all of it
    experts: tuple[str, ...] | None = None  # slugs; None is the whole community
    scorer_seconds: float = 120.0  # each of the five
    scorer_data: DataConfig = DRAWN
    scorer_training: ScorerTraining = SCORER_TRAINING
    proofs: ProofConfig | None = None  # None: what the device does in minutes

    def art(self) -> Art:
        """Read the art, or an evenly spaced part of it."""
        art = load_art(self.cache)
        if self.pictures is None:
            return art
        return art.select(torch.arange(0, len(art), max(1, len(art) // self.pictures)))

    def base(self) -> Path:
        """Return where the base is kept.

        Raises:
            MissingInput: it is not made yet.
        """
        folder = self.out / "base"
        if not (folder / "training.json").is_file():
            raise MissingInput(f"{folder} holds no base: run the stage `base` first")
        return folder

    def community(self) -> tuple[Recipe, ...]:
        """Return the experts that are made."""
        return COMMUNITY if self.experts is None else tuple(map(recipe_of, self.experts))

    def weights(self, recipe: Recipe) -> Path:
        """Return where an expert's weights are kept."""
        return self.out / "weights" / f"{recipe.slug}.safetensors"

    def missing(self) -> list[Recipe]:
        """Return the experts whose weights are not there."""
        return [recipe for recipe in self.community() if not self.weights(recipe).is_file()]


def rehearsal(settings: RecipeSettings) -> RecipeSettings:
    """Return the same settings with everything small, to find mistakes early: minutes on a CPU.

    Nothing that ships is touched: it publishes and writes documents below its own folder.
    """
    few = LoopConfig(steps=3, learning_rate=1e-3)
    return replace(
        settings,
        assets=settings.out / "assets",
        docs=settings.out / "docs",
        workers=1,
        autoencoder=few,
        denoiser=few,
        refining=few,
        batch=8,
        refining_batch=8,
        expert_batch=8,
        expert_pictures=24,
        expert_steps=0.004,
        joint=JointConfig(
            CombinationConfig(pairs=4, triples=2, hosted=2, pictures=8, wordings=2), (few,), batch=8
        ),
        pictures=120,
        experts=REHEARSED,
        scorer_data=DataConfig(sets=2, test_sets=1, prompts=2, parts=2),
        scorer_training=ScorerTraining(
            groups=2, composed=2, drawn=3, steps=2, bank=BankConfig(1, 2, 3)
        ),
        proofs=ProofConfig.small(),
    )
