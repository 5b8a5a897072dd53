"""How clean is a picture, whatever was asked for? Closeness to the nearest thing it could mean.

What treatments cost even when drawn as they should be (scorer_costs.py) is given back, so that a
picture with whole effects counts as no less clean than one without: half an effect does.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from recipes.emoji64.art import Art
from recipes.emoji64.truth import Composition, Truths, closeness_to, true_images


class IntendedImages:
    """The images these subjects may be intended as: any style, some sets of treatments."""

    def __init__(
        self,
        art: Art,
        compositions: Sequence[Composition],
        cost: Callable[[Collection[str]], float],
    ) -> None:
        """Keep what the pictures were drawn for.

        Args:
            art: on the pictures' device.
            compositions: what was asked for.
            cost: the closeness that treatments take together even when drawn as they should be.
        """
        self.art, self.compositions, self.cost = art, compositions, cost
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
