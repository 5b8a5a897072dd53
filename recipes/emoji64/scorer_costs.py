"""How much closeness do treatments cost even when drawn as they should be?

Snow and stained glass come out further from their truth than a plain picture does, and two of them
together cost neither the sum of both nor the more of them: stripes on an inverted picture twice
their sum, comic lines at night nothing. So each set is measured as a set.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from recipes.emoji64 import captions
from recipes.emoji64.art import Art
from recipes.emoji64.community import Recipe
from recipes.emoji64.image_sampler import ImageSampler
from recipes.emoji64.truth import Composition, closeness_to, true_images

MOST = 0.2  # closeness that a picture may be given back


class Costs:
    """Measures a set of treatments when it is first asked for.

    Drawn by the treatments' good experts at their recommended strengths, against the base without,
    with the same subjects and noise. It leaves the sampler's weights changed.
    """

    def __init__(
        self,
        sampler: ImageSampler,
        art: Art,
        community: Sequence[Recipe],
        compositions: Sequence[Composition],
        seed: int,
    ) -> None:
        """Draw the plain pictures.

        Args:
            sampler: the base with the community's updates.
            art: on the sampler's device.
            community: of the experts that draw.
            compositions: subjects, without treatments; as many as the sampler's batch at most.
            seed: of noise and wordings.
        """
        self.sampler, self.art, self.compositions = sampler, art, compositions
        self.experts = {
            recipe.treatments[0]: recipe
            for recipe in community
            if recipe.kind == "peft" and recipe.quality == "good" and len(recipe.treatments) == 1
        }
        self.rng = np.random.default_rng([seed, 2])
        generator = torch.Generator(sampler.model.device).manual_seed(seed + 2)
        self.noise = sampler.noise(len(compositions), generator)
        self.known: dict[tuple[str, ...], float] = {}
        self.plain = self._closeness(())

    def of(self, treatments: Collection[str]) -> float:
        """Return what these cost together, from 0 to `MOST`; what no good expert draws is free."""
        names = tuple(sorted(name for name in treatments if name in self.experts))
        if not names:
            return 0.0
        if names not in self.known:
            self.known[names] = min(MOST, max(0.0, self.plain - self._closeness(names)))
        return self.known[names]

    def _closeness(self, treatments: tuple[str, ...]) -> float:
        right = [self.experts[name] for name in treatments]
        self.sampler.write({recipe.slug: recipe.strength for recipe in right})
        prompts = [
            captions.caption(self.art.subjects[own.subject], own.style, list(treatments), self.rng)
            for own in self.compositions
        ]
        images = self.sampler.draw_from(self.sampler.context(prompts), self.noise)
        meant = [Composition(own.subject, None, treatments) for own in self.compositions]
        return float(closeness_to(images, true_images(self.art, meant)).mean())
