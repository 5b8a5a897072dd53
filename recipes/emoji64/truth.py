"""How close is an image to what was asked for?

What a prompt asks for is known exactly: the subject's art in the style asked for, with the
treatments asked for applied to it. No style asked for means that any of the five will do: the
closest one counts.

Closeness is 1 minus a weighted sum of root mean square distances between two images:

    4 x 0.18   colours at 64, 32, 16 and 8 pixels a side: what is where, from outlines to areas
    0.20       texture: how much fine detail each cell of 8x8 pixels holds. Dots in another place
    still are
               dots; a blurred average of all answers, which plain pixel distance would favour, is
               not.
    0.08       the means and spreads of the three colours over the whole image

1 is identical, about 0.9 a good likeness, below 0.6 another picture. It is fixed: nothing is
fitted, so scorers, experts and planners can be measured with it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from recipes.emoji64.art import RESOLUTION, STYLES, Art
from recipes.emoji64.treatments import compose

SCALES = (1, 2, 4, 8)  # pixels averaged a side
SCALE_WEIGHT = 0.18
TEXTURE_WEIGHT = 0.20
COLOUR_WEIGHT = 0.08
CELL = 8  # pixels a side of a texture cell
TEXTURE_GAIN = 3.0  # brings the spread of fine detail to that of colours
COMPOSED_TOGETHER = 4096  # images
TINY = 1e-8  # keeps the root's slope finite


@dataclass(frozen=True)
class Composition:
    """What a prompt asks for."""

    subject: int  # index into the art's subjects
    style: str | None = None  # one of STYLES; None: any
    treatments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Truths:
    """The true images of compositions: one a style that is allowed and drawn."""

    images: Tensor  # (compositions, styles, 3, 64, 64), uint8
    allowed: Tensor  # (compositions, styles), bool

    def to(self, device: torch.device | str) -> "Truths":
        """Return the same on a device."""
        return Truths(self.images.to(device), self.allowed.to(device))

    def take(self, indices: Tensor) -> "Truths":
        """Return these compositions' truths."""
        return Truths(self.images[indices], self.allowed[indices])


def true_images(art: Art, compositions: Sequence[Composition]) -> Truths:
    """Compose the truth of each composition, on the art's device.

    Raises:
        ValueError: a subject is not drawn in the style asked for.
    """
    device = art.images.device
    where = _places(art)
    images = torch.zeros(
        len(compositions), len(STYLES), 3, RESOLUTION, RESOLUTION, dtype=torch.uint8, device=device
    )
    allowed = torch.zeros(len(compositions), len(STYLES), dtype=torch.bool, device=device)
    alike: dict[tuple[str, ...], list[tuple[int, int, int]]] = defaultdict(list)
    for row, composition in enumerate(compositions):
        styles = (
            range(len(STYLES)) if composition.style is None else [STYLES.index(composition.style)]
        )
        drawn = [
            (style, where[composition.subject, style])
            for style in styles
            if (composition.subject, style) in where
        ]
        if not drawn:
            raise ValueError(
                f"no art of subject {composition.subject} in style {composition.style}"
            )
        alike[composition.treatments] += [(row, style, place) for style, place in drawn]
    for treatments, members in alike.items():
        table = torch.tensor(members, device=device)
        for start in range(0, len(members), COMPOSED_TOGETHER):
            rows, drawn_in, places = table[start : start + COMPOSED_TOGETHER].unbind(1)
            images[rows, drawn_in] = composed(art, places, treatments)
            allowed[rows, drawn_in] = True
    return Truths(images, allowed)


def composed(art: Art, places: Tensor, treatments: Sequence[str]) -> Tensor:
    """Return art with treatments applied: (places, 3, 64, 64), uint8."""
    made = compose(*art.planes(places), list(treatments))
    return (made.clamp(0, 1) * 255).round().to(torch.uint8)


def closeness_to(images: Tensor, truths: Truths) -> Tensor:
    """Return each image's closeness to its own truth, the closest allowed style: (n,).

    Args:
        images: (n, 3, 64, 64), uint8 or float in [0, 1].
        truths: of n compositions.
    """
    return closeness_among(images.unsqueeze(1), truths).squeeze(1)


def closeness_among(images: Tensor, truths: Truths) -> Tensor:
    """Return how close each of a group's images is to the group's truth: (groups, members).

    Args:
        images: (groups, members, 3, 64, 64), uint8 or float in [0, 1].
        truths: of the groups.
    """
    seen = [part.unflatten(0, images.shape[:2]) for part in _aspects(images.flatten(0, 1))]
    shape = truths.allowed.shape
    meant = [part.unflatten(0, shape) for part in _aspects(truths.images.flatten(0, 1))]
    styles = range(shape[1])
    each = torch.stack(
        [_closeness(seen, [part[:, own : own + 1] for part in meant]) for own in styles], 2
    )
    return each.masked_fill(~truths.allowed.unsqueeze(1), -1.0).amax(2)


def closeness(images: Tensor, others: Tensor) -> Tensor:
    """Return how close images are to others, pair by pair: (n,), 1 at most.

    Args:
        images: (n, 3, 64, 64), uint8 or float in [0, 1].
        others: the same shape.
    """
    return _closeness(_aspects(images), _aspects(others))


def as_float(images: Tensor) -> Tensor:
    """Return uint8 images as float in [0, 1]; others as they are, in float32."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


WEIGHTS = (*[SCALE_WEIGHT] * len(SCALES), TEXTURE_WEIGHT * TEXTURE_GAIN, COLOUR_WEIGHT)


def _aspects(images: Tensor) -> list[Tensor]:
    """Return what is compared of images (n, 3, 64, 64): one (n, values) a weight."""
    clear = as_float(images)
    fine = clear - F.avg_pool2d(F.pad(clear, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    colours = torch.cat([clear.mean((2, 3)), clear.std((2, 3), unbiased=False)], dim=1)
    areas = [F.avg_pool2d(clear, side) if side > 1 else clear for side in SCALES]
    return [
        *(part.flatten(1) for part in areas),
        F.avg_pool2d(fine.abs(), CELL).flatten(1),
        colours,
    ]


def _closeness(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return 1 minus the weighted distances over the last dimension of every aspect."""
    each = [
        weight * ((ours - theirs).square().mean(-1) + TINY).sqrt()
        for weight, ours, theirs in zip(WEIGHTS, left, right, strict=True)
    ]
    return 1 - torch.stack(each).sum(0)


def _places(art: Art) -> dict[tuple[int, int], int]:
    """Return where in the art each (subject, style) is."""
    pairs = zip(art.subject.tolist(), art.style.tolist(), strict=True)
    return {pair: place for place, pair in enumerate(pairs)}
