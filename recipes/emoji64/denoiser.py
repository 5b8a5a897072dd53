"""How a UNet learns: the velocity loss over latents and captions, for base and experts alike.

Velocity prediction, https://arxiv.org/abs/2202.00512: v = alpha·noise - sigma·latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.emoji64.architecture import build_scheduler
from recipes.emoji64.loop import LoopConfig, LoopReport, optimise

BLANK_SHARE = 0.1  # of captions left out, for classifier-free guidance


@dataclass(frozen=True)
class TrainingData:
    """What is learnt from: latents, and several captions for each."""

    latents: Tensor  # (pictures, 4, 16, 16), float16
    captions: Tensor  # (pictures, captions, tokens), int: token ids
    blank: Tensor  # (tokens,): the empty caption

    def to(self, device: torch.device) -> "TrainingData":
        """Return the same on a device."""
        return TrainingData(
            self.latents.to(device), self.captions.to(device).int(), self.blank.to(device).int()
        )


class VelocityLoss:
    """How far a UNet is from the velocity of noisy latents; no branch depends on what is drawn."""

    def __init__(
        self, unet: Any, text_encoder: Any, data: TrainingData, batch: int, train_text: bool = False
    ) -> None:
        """Put everything where the UNet is.

        Args:
            unet: predicts velocities.
            text_encoder: reads captions.
            data: on the UNet's device.
            batch: pictures a step.
            train_text: whether gradients reach the text encoder.
        """
        self.unet, self.text_encoder, self.data, self.batch = unet, text_encoder, data, batch
        self.device, self.train_text = data.latents.device, train_text
        # float64 on the CPU first: the last signal level of the schedule is exactly zero
        signal = build_scheduler().alphas_cumprod.double()
        self.alphas = signal.sqrt().float().to(self.device)
        self.sigmas = (1 - signal).sqrt().float().to(self.device)

    def of(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean square error on these pictures at times and with noise drawn now."""
        data, device, batch = self.data, self.device, self.batch

        def integers(high: int) -> Tensor:
            return torch.randint(high, (batch,), generator=generator, device=device)

        time = integers(len(self.alphas))
        tokens = data.captions[index, integers(data.captions.shape[1])]
        dropped = torch.rand(batch, 1, generator=generator, device=device) < BLANK_SHARE
        tokens = torch.where(dropped, data.blank, tokens)
        latents = data.latents[index].float()
        noise = torch.randn(latents.shape, generator=generator, device=device)
        alpha = self.alphas[time].view(-1, 1, 1, 1)
        sigma = self.sigmas[time].view(-1, 1, 1, 1)
        wanted = alpha * noise - sigma * latents
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.set_grad_enabled(self.train_text):
                context = self.text_encoder(tokens).last_hidden_state
            noisy = alpha * latents + sigma * noise
            made = self.unet(noisy, time, context, return_dict=False)[0]
        return torch.nn.functional.mse_loss(made.float(), wanted)


def train_denoiser(
    unet: Any,
    text_encoder: Any,
    parameters: Sequence[Tensor],
    data: TrainingData,
    config: LoopConfig,
    batch: int,
    name: str,
) -> LoopReport:
    """Train `parameters`, some of the UNet's and the text encoder's, in place."""
    device = parameters[0].device
    data = data.to(device)
    train_text = any(
        parameter is own for own in text_encoder.parameters() for parameter in parameters
    )
    loss = VelocityLoss(unet, text_encoder, data, batch, train_text)
    pictures = len(data.latents)

    def draw_loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(pictures, (batch,), generator=generator, device=device)
        return loss.of(index, generator)

    # peft's DoRA reshapes convolutions' factors in a way that needs them contiguous
    dora = any("lora_magnitude" in key for key, _ in unet.named_parameters())
    if device.type == "cuda" and not dora:
        unet.to(memory_format=torch.channels_last)
    report = optimise(draw_loss, list(parameters), config, name)
    unet.to(memory_format=torch.contiguous_format)
    return report
