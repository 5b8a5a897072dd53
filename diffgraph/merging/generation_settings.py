"""How is an image drawn, whichever tool draws it?"""

from dataclasses import dataclass

from diffgraph.families.family import Family, SamplerConfig
from diffgraph.prompting.syntax import WrittenPrompt, read_prompt


@dataclass(frozen=True)
class GenerationSettings:
    """All that an image is made of but its model."""

    family: Family
    prompt: WrittenPrompt
    sampler: SamplerConfig
    seed: int
    width: int
    height: int

    @classmethod
    def of(
        cls,
        family: Family,
        text: str,
        sampler: SamplerConfig,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ) -> "GenerationSettings":
        """Return the settings for a prompt as people write it; `size` is width and height."""
        width, height = size or sampler.size or (family.resolution, family.resolution)
        return cls(family, read_prompt(text), sampler, seed, width, height)

    @property
    def text(self) -> str:
        """What the model is told: weights in it, tags of experts and negative prompt not."""
        return self.prompt.text

    @property
    def negative(self) -> str:
        """What it is told not to draw."""
        return self.prompt.negative

    @property
    def clip_skip(self) -> int:
        """The text encoder's layer, from the end, that its states are of: 1 is the last."""
        return self.prompt.clip_skip or self.sampler.clip_skip
