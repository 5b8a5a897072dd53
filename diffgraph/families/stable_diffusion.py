"""A Stable Diffusion model on a device: CLIP text encoder, UNet, autoencoder, scheduler.

Every family of this architecture (emoji64, SD1.5) is loaded, sampled and merged by this one class.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.families.family import SamplerConfig

CHUNK = 64  # images denoised together unless the caller splits the work


class StableDiffusion:
    """A `ResidentModel` made of diffusers' own classes."""

    def __init__(
        self,
        family: str,
        tokenizer: Any,
        text_encoder: Any,
        unet: Any,
        vae: Any,
        scheduler: Any,
        sampler: SamplerConfig,
    ):
        self.family = family
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.unet = unet.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.sampler = sampler

    @classmethod
    def from_folder(
        cls,
        family: str,
        folder: Path,
        sampler: SamplerConfig,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "StableDiffusion":
        """Load a model from a folder in the diffusers layout, without any network."""
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        return cls(
            family,
            CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, **local).to(device),
            UNet2DConditionModel.from_pretrained(
                folder, subfolder="unet", torch_dtype=dtype, **local
            ).to(device),
            AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype, **local).to(
                device
            ),
            DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True),
            sampler,
        )

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        dtype: torch.dtype = next(self.unet.parameters()).dtype
        return dtype

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the live weights of the UNet and the text encoder, by name."""
        components = {"unet": self.unet, "text_encoder": self.text_encoder}
        return {
            f"{component}.{name}": parameter.data
            for component, module in components.items()
            for name, parameter in module.named_parameters()
        }

    def modules(self) -> Mapping[str, torch.nn.Module]:
        """Return the UNet's and the text encoder's modules, by name."""
        components = {"unet": self.unet, "text_encoder": self.text_encoder}
        return {
            f"{component}.{name}": module
            for component, root in components.items()
            for name, module in root.named_modules()
            if name
        }

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the text encoder's states: (prompts, tokens, width)."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        )
        states: Tensor = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return states

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Return the first noise of each image, drawn on the CPU: (seeds, channels, h, w)."""
        size = self.unet.config.sample_size
        shape = (self.unet.config.in_channels, size, size)
        draws = [
            torch.randn(shape, generator=torch.Generator("cpu").manual_seed(int(seed)))
            for seed in seeds
        ]
        return torch.stack(draws)

    @torch.no_grad()
    def denoise(
        self,
        text: Tensor,
        blank: Tensor,
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return latents for `text` (n, tokens, width), `blank` likewise and `noise` (n, …)."""
        from copy import deepcopy

        scheduler = deepcopy(self.scheduler)
        scheduler.set_timesteps(sampler.steps, device=self.device)
        context = torch.cat([blank, text])
        latents = noise.to(self.device, self.dtype) * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            both = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            free, guided = self.unet(both, timestep, context, return_dict=False)[0].chunk(2)
            prediction = free + sampler.guidance * (guided - free)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            if on_step is not None:
                on_step(step)
        denoised: Tensor = latents
        return denoised

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images from latents: (n, 3, height, width), float32 in [0, 1]."""
        images: Tensor = self.vae.decode(
            latents / self.vae.config.scaling_factor, return_dict=False
        )[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Return one image per prompt and seed: (prompts, 3, height, width) in [0, 1]."""
        sampler = sampler or self.sampler
        blank = self.embed([""])
        images = []
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, start + CHUNK)
            text = self.embed(prompts[part])
            latents = self.denoise(
                text, blank.expand_as(text), self.noise(seeds[part]), sampler, on_step
            )
            images.append(self.decode(latents))
        return torch.cat(images)
