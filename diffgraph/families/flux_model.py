"""A FLUX model on a device: CLIP and T5 text encoders, transformer, autoencoder, flow matching.

The transformer sees patches of 2 x 2 latents as tokens and predicts the velocity of a straight
path from noise to image: https://arxiv.org/abs/2403.03206
"""

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from diffgraph.families.family import SamplerConfig
from diffgraph.families.resident import DiffusionModel, OnStep
from diffgraph.prompting.conditioning import TextReader
from diffgraph.prompting.syntax import read_prompt
from diffgraph.prompting.weights import without_weights

PATCH = 2  # latents a side of a token
TRAINING_STEPS = 1000  # the scheduler's unit of time
TEXT_TOKENS = {True: 512, False: 256}  # of models with guidance built in (dev), without (schnell)

log = logging.getLogger(__name__)


class Flux(DiffusionModel):
    """A `ResidentModel` made of diffusers' own classes."""

    def __init__(  # noqa: PLR0913 (one argument a component, as diffusers' pipelines have it)
        self,
        family: str,
        tokenizer: Any,
        text_encoder: Any,
        tokenizer_2: Any,
        text_encoder_2: Any,
        transformer: Any,
        vae: Any,
        scheduler: Any,
        sampler: SamplerConfig,
        resolution: int,
        images_at_once: int = 1,
    ):
        components = {
            "transformer": transformer,
            "text_encoder": text_encoder,
            "text_encoder_2": text_encoder_2,
        }
        super().__init__(family, components, vae, scheduler, sampler, images_at_once)
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.tokenizer_2 = tokenizer_2
        self.text_encoder_2 = text_encoder_2
        self.transformer = transformer
        self.resolution = resolution

    def pipeline(self) -> Any:
        """Return diffusers' own pipeline of these components: a `FluxPipeline`."""
        from diffusers import FluxPipeline

        return FluxPipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            transformer=self.transformer,
        )

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = PATCH * (self.resolution // (factor * PATCH))
        return self.transformer.config.in_channels // PATCH**2, side, side

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return T5's states, which the transformer attends to: (texts, tokens, width).

        Args:
            texts: with weights in them; no negatives, no tags. What is too long is cut, and said.
        """
        most = TEXT_TOKENS[bool(self.transformer.config.guidance_embeds)]
        length = min(most, self.tokenizer_2.model_max_length)
        reader = TextReader(self.tokenizer_2, self.text_encoder_2, length, in_chunks=False)
        return reader.read(texts, lambda ids, mask: self.text_encoder_2(ids, mask)[0])

    @torch.no_grad()
    def pool(self, texts: Sequence[str]) -> Tensor:
        """Return CLIP's summary of each text, which modulates every block: (texts, width).

        It has no weights, and is of as much of the text as CLIP reads at once.
        """
        tokens = self.tokenizer(
            [without_weights(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        )
        pooled: Tensor = self.text_encoder(tokens.input_ids.to(self.device)).pooler_output
        return pooled

    def conditioning(
        self, prompts: Sequence[str], sampler: SamplerConfig | None = None
    ) -> dict[str, Tensor]:
        written = [read_prompt(prompt) for prompt in prompts]
        if any(prompt.negative for prompt in written):
            log.warning("%s has no negative prompt: its guidance is in its weights", self.family)
        if any((prompt.clip_skip or (sampler or self.sampler).clip_skip) > 1 for prompt in written):
            log.warning("%s has no clip skip: what CLIP says is of its last layer", self.family)
        texts = [prompt.text for prompt in written]
        return {"prompt_embeds": self.embed(texts), "pooled_prompt_embeds": self.pool(texts)}

    @torch.no_grad()
    def denoise(
        self,
        text: Tensor,
        pooled: Tensor,
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Return latents (n, channels, height, width) for as many first noises.

        Args:
            text: T5's states, (n, tokens, width).
            pooled: CLIP's, (n, width).
            noise: (n, channels, height, width).
            sampler: its guidance is an input of the network, not a second pass.
            on_step: called with the number of each denoising step.
        """
        height, width = noise.shape[2:]
        tokens = packed(noise.to(self.device, self.dtype))
        scheduler = self._scheduler(sampler.steps, tokens.shape[1])
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((len(tokens),), sampler.guidance, device=self.device)
        image_ids = positions(height // PATCH, width // PATCH).to(tokens)
        text_ids = torch.zeros(text.shape[1], 3).to(tokens)
        for step, timestep in enumerate(scheduler.timesteps):
            velocity = self.transformer(
                hidden_states=tokens,
                timestep=timestep.expand(len(tokens)).to(tokens.dtype) / TRAINING_STEPS,
                guidance=guidance,
                pooled_projections=pooled,
                encoder_hidden_states=text,
                txt_ids=text_ids,
                img_ids=image_ids,
                return_dict=False,
            )[0]
            tokens = scheduler.step(velocity, timestep, tokens, return_dict=False)[0]
            if on_step is not None:
                on_step(step)
        return unpacked(tokens, height, width)

    def _scheduler(self, steps: int, tokens: int) -> Any:
        """Return a scheduler whose noise levels suit an image of so many tokens."""
        scheduler = deepcopy(self.scheduler)
        config = scheduler.config
        slope = (config.max_shift - config.base_shift) / (
            config.max_image_seq_len - config.base_image_seq_len
        )
        shift = config.base_shift + slope * (tokens - config.base_image_seq_len)
        sigmas = None
        if not config.get("use_flow_sigmas"):
            sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).numpy()
        scheduler.set_timesteps(
            steps if sigmas is None else None, device=self.device, sigmas=sigmas, mu=shift
        )
        scheduler.set_begin_index(0)
        return scheduler

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sampler: SamplerConfig,
        on_step: OnStep | None = None,
    ) -> Tensor:
        told = self.conditioning(prompts, sampler)
        text, pooled = told["prompt_embeds"], told["pooled_prompt_embeds"]
        return self.decode(self.denoise(text, pooled, noise, sampler, on_step))


def packed(latents: Tensor) -> Tensor:
    """Return latents (n, channels, height, width) as tokens (n, patches, channels * 4)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    tokens = patches.permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(count, -1, channels * PATCH**2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens (n, patches, channels * 4) as latents (n, channels, height, width)."""
    count, _, depth = tokens.shape
    channels = depth // PATCH**2
    patches = tokens.reshape(count, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


def positions(rows: int, columns: int) -> Tensor:
    """Return where each token lies: (rows * columns, 3), the first entry 0."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()
