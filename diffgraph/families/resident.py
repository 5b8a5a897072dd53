"""What do all base models on a device have in common?

Named components whose weights a merge may write, a first noise that depends on its seed alone, and
images drawn a few at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffgraph.families.family import SamplerConfig
from diffgraph.prompting.syntax import WrittenPrompt, read_prompt

OnStep = Callable[[int], None]  # called with the number of each denoising step


class DiffusionModel(ABC):
    """A `ResidentModel` made of components; a family's architecture says how it draws."""

    def __init__(
        self,
        family: str,
        components: Mapping[str, nn.Module],
        vae: Any,
        scheduler: Any,
        sampler: SamplerConfig,
        images_at_once: int,
    ):
        self.family = family
        self.components = components  # those that experts may change, by name, the denoiser first
        self.vae = vae
        self.scheduler = scheduler
        self.sampler = sampler
        self.images_at_once = images_at_once
        for component in (*components.values(), vae):
            component.eval().requires_grad_(False)

    @property
    def denoiser(self) -> nn.Module:
        """The network that runs at every step."""
        return next(iter(self.components.values()))

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.denoiser.parameters()).dtype

    def parameters(self) -> Mapping[str, Tensor]:
        return {
            f"{component}.{name}": parameter.data
            for component, module in self.components.items()
            for name, parameter in module.named_parameters()
        }

    def modules(self) -> Mapping[str, nn.Module]:
        return {
            f"{component}.{name}": module
            for component, root in self.components.items()
            for name, module in root.named_modules()
            if name
        }

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, int, int]:
        """The shape of an image's latents: (channels, height, width)."""

    @abstractmethod
    def pipeline(self) -> Any:
        """Return the `DiffusionPipeline` of diffusers that these components make."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return what the denoiser is conditioned on: (texts, tokens, width)."""

    @abstractmethod
    def conditioning(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> dict[str, Tensor]:
        """Return what `pipeline()` is called with in place of prompts."""

    def form(self, prompt: WrittenPrompt, sampler: SamplerConfig) -> Hashable:
        """Return what prompts must have in common to be encoded and denoised together."""
        return None

    def alike(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> list[list[int]]:
        places: dict[Hashable, list[int]] = {}
        for place, prompt in enumerate(prompts):
            form = self.form(read_prompt(prompt), sampler or self.sampler)
            places.setdefault(form, []).append(place)
        return list(places.values())

    @abstractmethod
    def draw(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Return one image per prompt and first noise: (prompts, 3, height, width) in [0, 1]."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images from latents: (n, 3, height, width), float32 in [0, 1]."""
        config = self.vae.config
        scaled = latents / config.scaling_factor
        if config.get("shift_factor") is not None:
            scaled = scaled + config.shift_factor
        images: Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """Return the shape of an image's latents: (channels, height, width).

        Args:
            size: pixels across and down; the model's own if None.
        """
        if size is None:
            return self.noise_shape
        pixels = 2 ** (len(self.vae.config.block_out_channels) - 1)  # a side of a latent
        return self.noise_shape[0], size[1] // pixels, size[0] // pixels

    def images_together(self, sampler: SamplerConfig) -> int:
        own, asked = (h * w for _, h, w in map(self.latent_shape, (None, sampler.size)))
        return max(1, min(self.images_at_once, self.images_at_once * own // asked))

    def noise(self, seeds: Sequence[int], size: tuple[int, int] | None = None) -> Tensor:
        """Return the first noise of each image, drawn on the CPU: (seeds, channels, h, w)."""
        shape = self.latent_shape(size)
        draws = [
            torch.randn(shape, generator=torch.Generator("cpu").manual_seed(int(seed)))
            for seed in seeds
        ]
        return torch.stack(draws)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        sampler = sampler or self.sampler
        together = self.images_together(sampler)
        images: dict[int, Tensor] = {}
        for places in self.alike(prompts, sampler):
            for start in range(0, len(places), together):
                part = places[start : start + together]
                noise = self.noise([seeds[place] for place in part], sampler.size)
                noise = noise.to(self.device, self.dtype)
                drawn = self.draw([prompts[place] for place in part], noise, sampler, on_step)
                images.update(zip(part, drawn, strict=True))
        return torch.stack([images[place] for place in range(len(prompts))])
