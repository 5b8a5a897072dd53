"""A Stable Diffusion model on a device: CLIP text encoder, UNet, autoencoder, scheduler.

Every family of this architecture (emoji64, SD1.5) is loaded, sampled and merged by this one class.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.families.bases import load_component
from diffgraph.families.family import SamplerConfig
from diffgraph.families.resident import DiffusionModel, OnStep

IMAGES_AT_ONCE = 64  # of emoji64's size


class StableDiffusion(DiffusionModel):
    """A `ResidentModel` made of diffusers' own classes."""

    def __init__(  # noqa: PLR0913 (one argument a component, as diffusers' pipelines have it)
        self,
        family: str,
        tokenizer: Any,
        text_encoder: Any,
        unet: Any,
        vae: Any,
        scheduler: Any,
        sampler: SamplerConfig,
        images_at_once: int = IMAGES_AT_ONCE,
    ):
        components = {"unet": unet, "text_encoder": text_encoder}
        super().__init__(family, components, vae, scheduler, sampler, images_at_once)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.unet = unet

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

        return cls(
            family,
            CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            load_component(CLIPTextModel, folder / "text_encoder", dtype).to(device),
            load_component(UNet2DConditionModel, folder / "unet", dtype).to(device),
            load_component(AutoencoderKL, folder / "vae", dtype).to(device),
            DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            sampler,
        )

    def pipeline(self) -> Any:
        """Return diffusers' own pipeline of these components: a `StableDiffusionPipeline`."""
        from diffusers import StableDiffusionPipeline

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = StableDiffusionPipeline(
                vae=self.vae,
                text_encoder=self.text_encoder,
                tokenizer=self.tokenizer,
                unet=self.unet,
                scheduler=deepcopy(self.scheduler),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        pipeline.scheduler = self.scheduler  # it "corrects" one whose first step is not 1
        return pipeline

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return the text encoder's states: (prompts, tokens, width)."""
        length = self.text_encoder.config.max_position_embeddings
        tokens = self.tokens(self.tokenizer, prompts, length)
        states: Tensor = self.text_encoder(tokens).last_hidden_state
        return states

    @torch.no_grad()
    def denoise(
        self,
        text: Tensor,
        blank: Tensor,
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Return latents for `text` (n, tokens, width), `blank` likewise and `noise` (n, …)."""
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
    def draw(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: OnStep | None = None,
    ) -> Tensor:
        text = self.embed(prompts)
        blank = self.embed([""]).expand_as(text)
        return self.decode(self.denoise(text, blank, noise, sampler, on_step))
