"""What can be done to a picture that the base model has not learnt, and an expert can?

Thirty-four visual treatments, each a pure function of colour and opacity. They stand where
community styles stand for big models, with one difference: the true result of any combination can
be computed, so that experts, scorers and merges can be judged against it. All are deterministic
and work on batches, on any device.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations

from torch import Tensor

from diffgraph.errors import InputError
from recipes.emoji64 import effects

Effect = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Stage(IntEnum):
    """When a treatment is applied: the order in which a hand would do it."""

    SUBJECT = 0
    RIM = 1
    BACKGROUND = 2
    GRADE = 3
    OVERLAY = 4
    FRAME = 5


@dataclass(frozen=True)
class Treatment:
    """One visual treatment and the words people use for it.

    `apply` takes colour (n, 3, 64, 64) and opacity (n, 1, 64, 64), both in [0, 1], and returns
    the same.
    """

    name: str
    stage: Stage
    phrases: tuple[str, ...]
    apply: Effect


def compose(rgb: Tensor, alpha: Tensor, names: Iterable[str]) -> Tensor:
    """Return pictures (n, 3, 64, 64) on white with these treatments, in canonical order.

    Args:
        rgb: (n, 3, 64, 64), in [0, 1].
        alpha: (n, 1, 64, 64), in [0, 1].
        names: keys of `TREATMENTS`; the order they come in makes no difference.
    """
    for treatment in ordered(names):
        rgb, alpha = treatment.apply(rgb, alpha)
    return effects.flattened(rgb, alpha).clamp(0, 1)


def ordered(names: Iterable[str]) -> list[Treatment]:
    """Return the treatments of these names in the order they are applied.

    Raises:
        InputError: a name is unknown.
    """
    chosen = set(names)
    unknown = sorted(chosen - set(TREATMENTS))
    if unknown:
        raise InputError(
            f"unknown treatment {unknown[0]!r}, expected one of: {', '.join(TREATMENTS)}"
        )
    return [treatment for treatment in TREATMENTS.values() if treatment.name in chosen]


def is_compatible(names: Collection[str]) -> bool:
    """Say whether every one of these treatments can still be seen beside the others."""
    return all(
        first.stage != second.stage and not _hides(first.name, second.name)
        for first, second in combinations(ordered(names), 2)
    )


def compatible_sets(count: int) -> list[tuple[str, ...]]:
    """Return all sets of `count` treatments that go together, each in canonical order."""
    return [names for names in combinations(TREATMENTS, count) if is_compatible(names)]


def _hides(first: str, second: str) -> bool:
    return second in HIDDEN_BY.get(first, ()) or first in HIDDEN_BY.get(second, ())


_ALL = (
    Treatment(
        "pixel_art", Stage.SUBJECT, ("pixel art", "as pixel art", "8-bit pixels"), effects.pixel_art
    ),
    Treatment(
        "golden", Stage.SUBJECT, ("made of gold", "golden", "as a golden statue"), effects.golden
    ),
    Treatment(
        "stained_glass",
        Stage.SUBJECT,
        ("stained glass", "in stained glass", "as a glass mosaic"),
        effects.stained_glass,
    ),
    Treatment(
        "pencil",
        Stage.SUBJECT,
        ("pencil sketch", "drawn in pencil", "pencil drawing"),
        effects.pencil,
    ),
    Treatment(
        "watercolour",
        Stage.SUBJECT,
        ("watercolour", "painted in watercolour", "watercolor painting"),
        effects.watercolour,
    ),
    Treatment(
        "halftone",
        Stage.SUBJECT,
        ("halftone dots", "halftone print", "in halftone"),
        effects.halftone,
    ),
    Treatment(
        "pop_art",
        Stage.SUBJECT,
        ("pop art", "pop art style", "as a pop art print"),
        effects.pop_art,
    ),
    Treatment(
        "comic",
        Stage.RIM,
        ("comic book", "comic style", "with thick black outlines"),
        effects.comic,
    ),
    Treatment(
        "sticker", Stage.RIM, ("as a sticker", "die-cut sticker", "sticker"), effects.sticker
    ),
    Treatment(
        "drop_shadow",
        Stage.RIM,
        ("drop shadow", "with a drop shadow", "casting a shadow"),
        effects.drop_shadow,
    ),
    Treatment(
        "fire_glow", Stage.RIM, ("fire glow", "on fire", "glowing like fire"), effects.fire_glow
    ),
    Treatment(
        "sunset", Stage.BACKGROUND, ("at sunset", "sunset background", "sunset sky"), effects.sunset
    ),
    Treatment(
        "starry",
        Stage.BACKGROUND,
        ("starry sky", "under the stars", "in outer space"),
        effects.starry,
    ),
    Treatment(
        "polka_dots",
        Stage.BACKGROUND,
        ("polka dots", "polka dot background", "on a polka dot background"),
        effects.polka_dots,
    ),
    Treatment(
        "checkerboard",
        Stage.BACKGROUND,
        ("checkerboard", "checkerboard background", "on a chequered background"),
        effects.checkerboard,
    ),
    Treatment(
        "stripes",
        Stage.BACKGROUND,
        ("stripes", "striped background", "on a striped background"),
        effects.stripes,
    ),
    Treatment(
        "sepia", Stage.GRADE, ("in sepia", "sepia toned", "as an old photograph"), effects.sepia
    ),
    Treatment("night", Stage.GRADE, ("at night", "night scene", "in the moonlight"), effects.night),
    Treatment(
        "noir", Stage.GRADE, ("black and white", "film noir", "in black and white"), effects.noir
    ),
    Treatment(
        "inverted", Stage.GRADE, ("inverted colours", "as a negative", "inverted"), effects.inverted
    ),
    Treatment(
        "blue_tint", Stage.GRADE, ("blue tint", "tinted blue", "in blue light"), effects.blue_tint
    ),
    Treatment(
        "green_tint",
        Stage.GRADE,
        ("green tint", "tinted green", "in green light"),
        effects.green_tint,
    ),
    Treatment(
        "pastel", Stage.GRADE, ("pastel colours", "in soft pastels", "pastel"), effects.pastel
    ),
    Treatment("dreamy", Stage.GRADE, ("dreamy", "soft focus", "blurry and dreamy"), effects.dreamy),
    Treatment(
        "vignette",
        Stage.GRADE,
        ("vignette", "with dark corners", "in a spotlight"),
        effects.vignette,
    ),
    Treatment(
        "underwater",
        Stage.GRADE,
        ("underwater", "under water", "deep in the sea"),
        effects.underwater,
    ),
    Treatment(
        "blueprint",
        Stage.GRADE,
        ("blueprint", "as a blueprint", "technical drawing"),
        effects.blueprint,
    ),
    Treatment("neon", Stage.GRADE, ("neon", "neon lights", "as a neon sign"), effects.neon),
    Treatment("snow", Stage.OVERLAY, ("in the snow", "snowing", "snowy"), effects.snow),
    Treatment("rain", Stage.OVERLAY, ("in the rain", "raining", "rainy"), effects.rain),
    Treatment(
        "glitch", Stage.OVERLAY, ("glitch", "glitch art", "with a digital glitch"), effects.glitch
    ),
    Treatment(
        "red_frame",
        Stage.FRAME,
        ("red frame", "in a red frame", "with a red border"),
        effects.red_frame,
    ),
    Treatment(
        "gold_frame",
        Stage.FRAME,
        ("gold frame", "in a golden frame", "in an ornate gold frame"),
        effects.gold_frame,
    ),
    Treatment(
        "wooden_frame",
        Stage.FRAME,
        ("wooden frame", "in a wooden frame", "framed in wood"),
        effects.wooden_frame,
    ),
)
TREATMENTS: dict[str, Treatment] = {treatment.name: treatment for treatment in _ALL}

_COLOURS = ("golden", "pop_art", "fire_glow", "sunset")
_ALL_BUT_LINES = (
    "pixel_art",
    "golden",
    "pencil",
    "watercolour",
    "halftone",
    "pop_art",
    "comic",
    "sticker",
    "drop_shadow",
    "fire_glow",
    "sunset",
    "starry",
    "polka_dots",
    "stripes",
)
HIDDEN_BY = {  # what cannot be seen any more once the key is applied
    "noir": _COLOURS,
    "sepia": _COLOURS,
    "inverted": _COLOURS,
    "blueprint": _ALL_BUT_LINES,
    "neon": _ALL_BUT_LINES,
    "night": ("fire_glow", "sunset", "starry"),
    "underwater": ("fire_glow", "sunset", "starry", "snow", "rain"),
    "blue_tint": ("sunset", "golden"),
    "green_tint": ("sunset", "golden"),
    "comic": ("pencil", "halftone", "stained_glass", "watercolour"),
    "dreamy": ("halftone", "pencil"),
    "starry": ("drop_shadow", "vignette"),
    "gold_frame": ("sticker", "vignette"),
    "wooden_frame": ("sticker", "vignette"),
    "checkerboard": ("blueprint", "neon"),
}
