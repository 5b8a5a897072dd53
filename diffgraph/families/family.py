"""What a family of models is: one base model and everything made from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from diffgraph.errors import InputError
from diffgraph.families.scorer import FamilyScorer
from diffgraph.families.vocabulary import Vocabulary


class SamplerConfig(BaseModel, frozen=True, extra="forbid"):
    """How an image is sampled; part of the identity of every score."""

    steps: int = Field(default=12, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(
        default=4.0, ge=0.0, le=1000.0, description="classifier-free guidance scale"
    )
    size: tuple[int, int] | None = Field(
        default=None,
        exclude_if=lambda size: size is None,  # identities from before it was a field stay
        description="pixels across and down; None: the family's own",
    )
    clip_skip: int = Field(
        default=1,
        ge=1,
        le=100,
        exclude_if=lambda layer: layer == 1,  # identities from before it was a field stay
        description="the text encoder's layer, from the end, that its states are of: 1 is the last",
    )
    triggers: bool = Field(
        default=True,
        exclude_if=lambda triggers: triggers,  # identities from before it was a field stay
        description="whether experts' trigger words are added to the text",
    )


class SamplerNames(NamedTuple):
    """What other tools call the way in which a family is sampled; empty: they have no name."""

    a1111: str = ""
    a1111_schedule: str = ""
    comfyui: str = ""
    comfyui_schedule: str = ""
    diffusers: str = ""
    """The class of its scheduler, where it is not the one that the base comes with."""


NO_NAMES = SamplerNames()


class ResidentModel(Protocol):
    """A base model on a device, whose weights a merge writes in place."""

    family: str
    images_at_once: int
    """How many images of the family's own size are denoised together; more are drawn in turns."""

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the live tensors that experts may change, by name.

        Names are diffusers module paths behind their component: `unet.…`, `text_encoder.…`.
        """
        ...

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """Return the modules that own those tensors, by their names less `.weight` or `.bias`."""
        ...

    def pipeline(self) -> Any:
        """Return the `DiffusionPipeline` of diffusers that these components make."""
        ...

    def images_together(self, sampler: SamplerConfig) -> int:
        """Return how many images of the sampler's size are denoised together, at least one."""
        ...

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return what the denoiser is conditioned on: (texts, tokens, width)."""
        ...

    def conditioning(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> dict[str, Tensor]:
        """Return what `pipeline()` is called with in place of prompts: `prompt_embeds` and others.

        Raises:
            InputError: a prompt is too long, or the prompts are not `alike`.
        """
        ...

    def alike(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> list[list[int]]:
        """Return the places of prompts that can share a forward pass; each place once."""
        ...

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return one image per prompt and seed: (prompts, 3, height, width), float32 in [0, 1].

        The first noise of an image depends on its own seed only, never on its neighbours or on
        the device.
        """
        ...


@dataclass(frozen=True)
class Family:
    """A base model by name: how it is loaded and sampled, and what ships with it."""

    name: str
    title: str
    resolution: int  # pixels a side, as it was trained and as its images are scored
    sampler: SamplerConfig
    hub_names: tuple[str, ...]  # what hubs call the base model, e.g. "SD 1.5"
    load: Callable[..., ResidentModel] = field(repr=False)  # (device, dtype) -> model
    vocabulary: Callable[[], Vocabulary] = field(default=Vocabulary, repr=False)
    scorers: Mapping[str, FamilyScorer] = field(default_factory=dict, repr=False)
    """What rates its images, by the name of the score; in the order of the graph's columns."""
    sides: range = range(0)
    """Pixels that a side of an image may have, beside `resolution`; none unless it says so."""
    sampler_names: SamplerNames = NO_NAMES
    is_guidance_distilled: bool = False  # into the weights: one pass a step, no negative prompt
    prediction: str = ""  # what the denoiser predicts: epsilon, velocity or flow; empty: not asked
    assets: Path | None = None  # the folder of what ships with the package, if anything does
    usual_strength: float = 1.0
    """Of a PEFT expert whose page recommends none."""
    usual_base: str = ""  # the hub's name of the base, if it does not ship
    components: tuple[str, ...] = ()  # what its weights are kept in, in the diffusers layout

    def sampled(self, sampler: SamplerConfig) -> "Family":
        """Return the family, sampled so.

        Raises:
            InputError: it draws no images of that size.
        """
        own, size = self.resolution, sampler.size
        if size in (None, (own, own)):
            size = None
        elif any(pixels not in self.sides for pixels in size):
            raise InputError(
                f"{self.name} cannot draw {size[0]}x{size[1]}: it draws {own}x{own}"
                + (f", or {_told(self.sides)}" if self.sides else " only")
            )
        return replace(self, sampler=sampler.model_copy(update={"size": size}))

    @property
    def hub(self) -> Path | None:
        """The bundled hub folder, in the shape of Civitai's answers."""
        return self.assets / "hub" if self.assets else None


def _told(sides: range) -> str:
    return f"sides that are multiples of {sides.step} from {sides[0]} to {sides[-1]}"
