"""How a UNet learns: the velocity loss over latents and captions, for base and experts alike.

Velocity prediction, https://arxiv.org/abs/2202.00512: v = alpha·noise - sigma·latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgraph.families.emoji64.architecture import build_scheduler
from diffgraph.recipe.loop import LoopConfig, LoopReport, optimise

BLANK_SHARE = 0.1  # of captions left out, for classifier-free guidance


@dataclass(frozen=True)
class Lessons:
    """What is learnt from: latents, and several captions for each."""

    latents: Tensor  # (pictures, 4, 16, 16), float16
    captions: Tensor  # (pictures, captions, tokens), int: token ids
    blank: Tensor  # (tokens,): the empty caption

    def to(self, device: torch.device) -> "Lessons":
        """Return the same on a device."""
        return Lessons(
            self.latents.to(device), self.captions.to(device).int(), self.blank.to(device).int()
        )


def train_denoiser(
    unet: Any,
    text_encoder: Any,
    parameters: Sequence[Tensor],
    lessons: Lessons,
    config: LoopConfig,
    batch: int,
    name: str,
) -> LoopReport:
    """Train `parameters`, some of the UNet's and the text encoder's, in place."""
    device = parameters[0].device
    lessons = lessons.to(device)
    # float64 on the CPU first: the last signal level of the schedule is exactly zero
    signal = build_scheduler().alphas_cumprod.double()
    alphas, sigmas = signal.sqrt().float().to(device), (1 - signal).sqrt().float().to(device)
    pictures, captions = lessons.captions.shape[:2]
    teach_text = any(
        parameter is own for own in text_encoder.parameters() for parameter in parameters
    )

    def draw_loss(generator: torch.Generator) -> Tensor:
        def integers(high: int) -> Tensor:
            return torch.randint(high, (batch,), generator=generator, device=device)

        index, time = integers(pictures), integers(len(alphas))
        tokens = lessons.captions[index, integers(captions)]
        dropped = torch.rand(batch, 1, generator=generator, device=device) < BLANK_SHARE
        tokens = torch.where(dropped, lessons.blank, tokens)
        latents = lessons.latents[index].float()
        noise = torch.randn(latents.shape, generator=generator, device=device)
        alpha, sigma = alphas[time].view(-1, 1, 1, 1), sigmas[time].view(-1, 1, 1, 1)
        wanted = alpha * noise - sigma * latents
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.set_grad_enabled(teach_text):
                context = text_encoder(tokens).last_hidden_state
            made = unet(alpha * latents + sigma * noise, time, context, return_dict=False)[0]
        return torch.nn.functional.mse_loss(made.float(), wanted)

    # peft's DoRA reshapes convolutions' factors in a way that needs them contiguous
    dora = any("lora_magnitude" in key for key, _ in unet.named_parameters())
    if device.type == "cuda" and not dora:
        unet.to(memory_format=torch.channels_last)
    report = optimise(draw_loss, list(parameters), config, name)
    unet.to(memory_format=torch.contiguous_format)
    return report
