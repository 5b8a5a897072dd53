"""How clean is a picture, whatever was asked for? Closeness to the nearest thing it could mean.

Even drawn just as they should be, snow and stained glass come out further from their truth than a
plain picture does. That is what a treatment costs; it is measured once and given back, so that a
picture with a whole effect counts as no less clean than one without: half an effect does.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from diffgraph.recipe.art import Art
from diffgraph.recipe.truth import Composition, Truths, closeness_to, true_images

MOST = 0.2  # closeness that a picture may be given back


class Meanings:
    """What anybody could have meant of these subjects: any style, some sets of treatments."""

    def __init__(
        self, art: Art, compositions: Sequence[Composition], costs: Mapping[str, float]
    ) -> None:
        """Remember whose pictures are looked at.

        Args:
            art: on the pictures' device.
            compositions: what was asked for.
            costs: closeness that a treatment takes even when drawn as it should be.
        """
        self.art, self.compositions, self.costs = art, compositions, costs
        self.known: dict[tuple[str, ...], Truths] = {}

    def closeness(self, images: Tensor, treatments: tuple[str, ...]) -> Tensor:
        """Return each picture's closeness to its subject with these treatments: (n,)."""
        if treatments not in self.known:
            meant = [Composition(own.subject, None, treatments) for own in self.compositions]
            self.known[treatments] = true_images(self.art, meant)
        return closeness_to(images, self.known[treatments])

    def cleanness(self, images: Tensor, intended: Collection[tuple[str, ...]]) -> Tensor:
        """Return the closeness to the nearest meaning, costs given back: (n,), 1 at most."""
        each = [
            self.closeness(images, treatments) + self.cost(treatments) for treatments in intended
        ]
        return torch.stack(each).amax(0).clamp(max=1.0)

    def cost(self, treatments: Collection[str]) -> float:
        """Return what treatments cost together."""
        return min(MOST, sum(self.costs.get(name, 0.0) for name in treatments))
