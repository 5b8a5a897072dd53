"""A Stable Diffusion model on a device: CLIP text encoder, UNet, autoencoder, scheduler.

Every family of this architecture (emoji64, SD1.5) is loaded, sampled and merged by this one class.
"""

import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.errors import InputError
from diffgraph.families.bases import load_component
from diffgraph.families.family import SamplerConfig
from diffgraph.families.resident import DiffusionModel, OnStep
from diffgraph.prompting.conditioning import TextReader
from diffgraph.prompting.syntax import WrittenPrompt, read_prompt

IMAGES_AT_ONCE = 64  # of emoji64's size

log = logging.getLogger(__name__)


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

    @property
    def _reader(self) -> TextReader:
        length = self.text_encoder.config.max_position_embeddings
        return TextReader(self.tokenizer, self.text_encoder, length, in_chunks=True)

    @torch.no_grad()
    def embed(self, texts: Sequence[str], clip_skip: int = 1, chunks: int = 1) -> Tensor:
        """Return the text encoder's states: (texts, chunks * tokens, width).

        Args:
            texts: with weights in them; no negatives, no tags.
            clip_skip: 1: of the encoder's last layer, 2: of the one before, …
            chunks: as many are returned at least.

        Raises:
            InputError: a text is too long, or there is no such layer.
        """
        layers = self.text_encoder.config.num_hidden_layers
        if clip_skip > layers:
            raise InputError(f"clip skip is from 1 to {layers} for {self.family}, not {clip_skip}")

        def encode(ids: Tensor, mask: Tensor | None) -> Tensor:
            whole = clip_skip == 1
            told = self.text_encoder(ids, attention_mask=mask, output_hidden_states=not whole)
            states: Tensor = told.last_hidden_state
            if not whole:
                states = self.text_encoder.final_layer_norm(told.hidden_states[-clip_skip])
            return states

        return self._reader.read(texts, encode, chunks)

    def form(self, prompt: WrittenPrompt, sampler: SamplerConfig) -> tuple[int, int]:
        """Return how many chunks a prompt takes, and its clip skip."""
        texts = [text for text in (prompt.text, prompt.negative) if text]
        chunks = max(map(self._reader.chunks, texts), default=1)
        return chunks, prompt.clip_skip or sampler.clip_skip

    def conditioning(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> dict[str, Tensor]:
        sampler = sampler or self.sampler
        written = [read_prompt(prompt) for prompt in prompts]
        forms = [self.form(prompt, sampler) for prompt in written]
        chunks, skips = max(chunks for chunks, _ in forms), {skip for _, skip in forms}
        if len(skips) > 1:
            raise InputError(f"prompts of clip skip {sorted(skips)} cannot be encoded together")
        clip_skip = skips.pop()
        text = self.embed([prompt.text for prompt in written], clip_skip, chunks)
        negatives = list(dict.fromkeys(prompt.negative for prompt in written))
        if any(negatives) and sampler.guidance <= 1:
            log.warning(
                "a negative prompt does nothing at guidance %g, only above 1", sampler.guidance
            )
        if len(negatives) > 1:
            negatives = [prompt.negative for prompt in written]
        blank = self.embed(negatives, clip_skip, chunks).expand_as(text)
        return {"prompt_embeds": text, "negative_prompt_embeds": blank}

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
        told = self.conditioning(prompts, sampler)
        text, blank = told["prompt_embeds"], told["negative_prompt_embeds"]
        return self.decode(self.denoise(text, blank, noise, sampler, on_step))
