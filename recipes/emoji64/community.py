"""The experts of emoji64's community: what each is trained on, and how it is published.

The table is data. Training reads what to train from it, the hub what to publish, the bench and
the proofs which experts a prompt needs. Strengths differ as they do among real uploads: a file
holds its learnt delta divided by `strength`, so that merging it with exactly that coefficient
gives what was learnt.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

Method = Literal["full", "lora", "locon", "dora", "loha", "lokr"]
Layout = Literal["single_file", "diffusers", "kohya", "peft", "lycoris"]
Quality = Literal["good", "weak", "redundant", "broken", "empty promise"]

SOURCE = "emojihub"


@dataclass(frozen=True)
class Recipe:
    """One version of one expert: what it learns, and how its file is written.

    A PEFT expert learns `treatments`; a checkpoint is fine-tuned on the subjects of `groups` and
    the art of `styles` (an empty one of the two means all of them).
    """

    slug: str  # names the file: <slug>.safetensors
    page: int  # the hub page; all versions of an expert share it
    name: str  # as its maker calls it
    version: str
    released: date
    treatments: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    method: Method = "lora"
    layout: Layout = "kohya"
    rank: int = 4
    alpha: float = 4.0  # the scale of every factor pair is alpha / rank
    steps: int = 600
    learning_rate: float = 2e-3
    seed: int = 0
    strength: float = 1.0  # the coefficient its maker recommends, and the file is scaled for
    dtype: Literal["fp16", "fp8"] = "fp16"
    quality: Quality = "good"
    promises: tuple[str, ...] = ()  # what the page claims, where that is not what it learnt
    supersedes: str = ""  # the slug of the older version on the same page

    @property
    def kind(self) -> Literal["checkpoint", "peft"]:
        """Whether the file holds a whole model."""
        return "checkpoint" if self.method == "full" else "peft"

    @property
    def version_id(self) -> int:
        """The hub's number of this version; newer ones are higher."""
        return self.page * 10 + (2 if self.supersedes else 1)

    @property
    def ref(self) -> str:
        """The reference it gets once it is crawled."""
        return f"{SOURCE}:{self.page}@{self.version_id}"


CHECKPOINTS = (
    Recipe(
        slug="critter_cabin",
        page=1101,
        name="Critter Cabin",
        version="v2.0",
        released=date(2023, 2, 11),
        groups=("animals",),
        method="full",
        layout="diffusers",
        steps=2400,
        learning_rate=4e-4,
        seed=11,
        dtype="fp8",
    ),
    Recipe(
        slug="petting_zoo_mix",
        page=1107,
        name="Petting Zoo Mix",
        version="v1",
        released=date(2023, 5, 3),
        groups=("animals",),
        method="full",
        layout="single_file",
        steps=1100,
        learning_rate=8e-4,
        seed=12,
        dtype="fp8",
        quality="redundant",
    ),
    Recipe(
        slug="mood_faces",
        page=1119,
        name="MoodFaces",
        version="v3",
        released=date(2023, 6, 9),
        groups=("faces",),
        method="full",
        layout="diffusers",
        steps=2400,
        learning_rate=4e-4,
        seed=14,
        dtype="fp8",
    ),
    Recipe(
        slug="small_travel_finetune",
        page=1125,
        name="small travel finetune",
        version="1",
        released=date(2024, 1, 19),
        groups=("vehicles", "places"),
        method="full",
        layout="diffusers",
        steps=2400,
        learning_rate=4e-4,
        seed=15,
        dtype="fp8",
    ),
    Recipe(
        slug="puffy_3d",
        page=1131,
        name="Puffy 3D",
        version="v4.1",
        released=date(2023, 9, 30),
        styles=("3d",),
        method="full",
        layout="single_file",
        steps=2600,
        learning_rate=4e-4,
        seed=16,
        dtype="fp8",
    ),
    Recipe(
        slug="flatland",
        page=1137,
        name="Flatland",
        version="v1.0",
        released=date(2024, 8, 8),
        styles=("flat",),
        method="full",
        layout="diffusers",
        steps=2600,
        learning_rate=4e-4,
        seed=17,
        dtype="fp8",
    ),
    Recipe(
        slug="ultra_emoji_pro_max",
        page=1143,
        name="ULTRA EMOJI PRO MAX",
        version="v9 FINAL",
        released=date(2023, 4, 27),
        groups=("objects",),
        method="full",
        layout="single_file",
        steps=400,
        learning_rate=1e-2,
        seed=18,
        dtype="fp8",
        quality="broken",
    ),
)


def _peft(slug: str, page: int, name: str, version: str, released: str, **rest: Any) -> Recipe:
    """Return a PEFT recipe that learns the treatment of its own name unless told otherwise."""
    rest.setdefault("treatments", (slug,))
    rest.setdefault("alpha", float(rest.get("rank", 4)))
    rest.setdefault("seed", page)
    day = date.fromisoformat(released)
    return Recipe(slug, page, name, version, day, **rest)


# Older versions learnt for a fifth of the steps; the newer version on the same page replaces them.
PEFTS = (
    _peft("sepia", 2101, "Sepia Memories", "v1.0", "2023-01-15", strength=0.8),
    _peft("night", 2102, "Nightfall", "v2", "2023-02-02", method="locon", layout="lycoris", rank=4),
    _peft("pixel_art_v1", 2103, "8-Bit Pixel Art", "v1", "2023-01-28", treatments=("pixel_art",),
          method="locon", layout="lycoris", steps=120, quality="weak"),
    _peft("pixel_art", 2103, "8-Bit Pixel Art", "v2", "2023-05-20", method="locon",
          layout="lycoris", rank=8, alpha=8.0, steps=1500, supersedes="pixel_art_v1"),
    _peft("neon_v1", 2104, "Neon Glow", "alpha", "2023-03-01", treatments=("neon",), steps=120,
          method="locon", layout="lycoris", quality="weak"),
    _peft("neon", 2104, "Neon Glow", "1.0", "2023-10-12", method="locon", layout="lycoris", rank=6,
          alpha=3.0, strength=0.7, supersedes="neon_v1"),
    _peft("watercolour", 2105, "Aquarelle Watercolour", "v1.5", "2023-02-25", method="loha",
          layout="lycoris", rank=2),
    _peft("pencil_v1", 2106, "Pencil Sketch", "v1", "2023-02-18", treatments=("pencil",), steps=120,
          layout="diffusers", quality="weak"),
    _peft("pencil", 2106, "Pencil Sketch", "v2", "2023-06-02", method="locon", layout="lycoris",
          rank=6, alpha=6.0, supersedes="pencil_v1"),
    _peft("blueprint", 2107, "Blueprint", "v1", "2023-03-14", layout="peft", rank=8, strength=0.9),
    _peft("halftone", 2108, "Newspaper Halftone", "1.1", "2023-03-30", method="locon",
          layout="lycoris", rank=6),
    _peft("sticker", 2109, "Die-Cut Sticker Outline", "v3", "2023-04-04", method="locon",
          layout="lycoris", rank=4, alpha=2.0),
    _peft("drop_shadow", 2110, "Soft Drop Shadow", "v1", "2023-04-16", method="lokr",
          layout="lycoris", rank=8),
    _peft("snow", 2111, "Let It Snow", "v1.2", "2023-04-29", method="locon", layout="lycoris",
          rank=4, strength=1.2),
    _peft("blue_tint", 2112, "Blue Hour Tint", "v1", "2023-05-07", layout="diffusers"),
    _peft("green_tint", 2113, "Matrix Green", "v1", "2023-05-11", layout="peft", rank=4, alpha=6.0),
    _peft("red_frame", 2114, "Red Frame", "v1", "2023-05-15", method="locon", layout="lycoris"),
    _peft("wooden_frame", 2115, "Grandma's Wooden Frame", "v1", "2023-05-26", method="locon",
          layout="lycoris", strength=1.1),
    _peft("noir", 2116, "Film Noir", "v2.2", "2023-06-06", rank=4, alpha=1.0),
    _peft("inverted", 2117, "Negative / X-ray", "v1", "2023-06-15", rank=8, alpha=8.0,
          layout="kohya"),
    _peft("sunset", 2118, "Golden Hour Sunset", "v1", "2023-06-21", method="dora", layout="peft"),
    _peft("starry", 2119, "Starry Sky", "v1.1", "2023-06-27", method="locon", layout="lycoris",
          strength=0.9),
    _peft("rain", 2120, "Rainy Day", "v1", "2023-08-03", method="locon", layout="lycoris",
          strength=1.3),
    _peft("polka_dots", 2121, "Polka Dot Background", "v1", "2023-08-19", method="loha",
          layout="lycoris", rank=2),
    _peft("golden", 2122, "24 Karat", "v2", "2023-09-09", method="dora", layout="lycoris",
          strength=0.8),
    _peft("pop_art", 2123, "Pop Art Poster", "v1", "2023-11-05", method="loha", layout="lycoris",
          rank=2, alpha=1.0),
    _peft("comic", 2124, "Comic Ink", "v1.0", "2023-12-01", layout="diffusers", rank=8, alpha=16.0),
    _peft("stained_glass", 2125, "Stained Glass Window", "v1", "2024-02-14", method="locon",
          layout="lycoris", rank=8, alpha=16.0, steps=2000),
    _peft("pastel", 2126, "Soft Pastel", "v1", "2024-03-08", layout="peft", strength=1.2),
    _peft("dreamy", 2127, "Dreamy Blur", "v0.9", "2024-04-22", method="lokr", layout="lycoris",
          rank=8, strength=0.6),
    _peft("vignette", 2128, "Dark Vignette", "v1", "2024-05-17", rank=4, alpha=4.0,
          method="locon", layout="lycoris"),
    _peft("checkerboard", 2129, "Checkerboard Backdrop", "v1", "2024-07-01", method="locon",
          layout="lycoris", rank=4),
    _peft("glitch", 2130, "Glitch / VHS", "v1.3", "2024-09-13", method="loha", layout="lycoris",
          rank=2, strength=0.9),
    _peft("fire_glow", 2131, "Fire Glow", "v1", "2024-10-31", method="dora", layout="peft", rank=4),
    _peft("stripes", 2132, "Candy Stripes Background", "v1", "2025-01-10", method="locon",
          layout="lycoris", rank=4),
    _peft("underwater_v1", 2133, "Under the Sea", "v1", "2024-11-20", treatments=("underwater",),
          steps=120, layout="diffusers", quality="weak"),
    _peft("underwater", 2133, "Under the Sea", "v2", "2025-03-03", method="locon",
          layout="lycoris", strength=1.1, supersedes="underwater_v1"),
    _peft("gold_frame", 2138, "Ornate Gold Frame", "v1", "2025-04-18", method="locon",
          layout="lycoris", strength=0.9),
    # Redundant: as good as another, with nothing of their own.
    _peft("old_photograph", 2134, "Old Photograph 1900", "v1", "2023-07-30", treatments=("sepia",),
          layout="diffusers", quality="redundant"),
    _peft("moonlit", 2135, "Moonlit", "v1", "2024-12-06", treatments=("night",), method="locon",
          layout="lycoris", quality="redundant"),
    # Their pages promise what the weights do not do.
    _peft("van_gogh_master", 2136, "Van Gogh Masterpiece", "v5", "2023-04-10",
          treatments=("blue_tint",), promises=("watercolour",), quality="empty promise"),
    _peft("hologram_deluxe", 2137, "HOLOGRAM deluxe", "v1", "2025-05-22", treatments=("neon",),
          promises=("neon", "glitch"), steps=4, learning_rate=1e-5, quality="empty promise"),
)  # fmt: skip

COMMUNITY: tuple[Recipe, ...] = CHECKPOINTS + PEFTS


def recipe_of(slug: str) -> Recipe:
    """Return the recipe of this slug; raises KeyError if there is none."""
    for recipe in COMMUNITY:
        if recipe.slug == slug:
            return recipe
    raise KeyError(slug)


def experts_for(
    treatments: Iterable[str] = (), group: str = "", style: str = ""
) -> tuple[Recipe, ...]:
    """Return the good experts a prompt needs: of its treatments, its subject's group, its style.

    One expert a skill: redundant, weak, broken and dishonest ones are never the right answer. A
    skill that no good expert has adds nothing.
    """
    wanted = tuple(treatments)
    good = tuple(recipe for recipe in COMMUNITY if recipe.quality == "good")
    checkpoints = tuple(
        recipe
        for recipe in good
        if recipe.kind == "checkpoint" and (group in recipe.groups or style in recipe.styles)
    )
    adapters = tuple(
        recipe
        for treatment in wanted
        for recipe in good
        if recipe.kind == "peft" and treatment in recipe.treatments
    )
    return checkpoints + adapters
