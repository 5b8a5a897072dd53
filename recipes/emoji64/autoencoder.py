"""How pictures become latents: emoji64's autoencoder, trained to keep small saturated details.

Besides the absolute error at 64 px it minimises the error of blurred copies (so that areas keep
their colour), of colour differences and of edges. It sees treated art too, at random gains of the
colour channels, so that night scenes and tints survive the round trip.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from recipes.emoji64.architecture import build_vae
from recipes.emoji64.loop import LoopConfig, LoopReport, optimise

BATCH = 256
KL_WEIGHT = 1e-6


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss of images (n, 3, h, w) against the art, in [-1, 1]."""
    loss = F.l1_loss(made, wanted) + F.mse_loss(made, wanted)
    for factor in (2, 4, 8):
        loss = loss + F.l1_loss(F.avg_pool2d(made, factor), F.avg_pool2d(wanted, factor))
    chroma_made, chroma = (x - x.mean(1, keepdim=True) for x in (made, wanted))
    loss = loss + F.l1_loss(chroma_made, chroma)
    for axis in (2, 3):
        loss = loss + F.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
    return loss


def train_autoencoder(
    images: Tensor, config: LoopConfig, device: torch.device
) -> tuple[Any, LoopReport]:
    """Train on uint8 images (n, 3, 64, 64); return a model of unit latents, and a report."""
    vae = build_vae().to(device)
    if device.type == "cuda":
        vae = vae.to(memory_format=torch.channels_last)
    images = images.to(device)
    batch = BATCH if device.type == "cuda" else 8

    def draw_loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (batch,), generator=generator, device=device)
        wanted = images[index].float() / 127.5 - 1
        gains = torch.rand(batch, 3, 1, 1, generator=generator, device=device) * 0.6 + 0.4
        mixed = torch.rand(batch, 1, 1, 1, generator=generator, device=device) < 0.3
        wanted = torch.where(mixed, (wanted + 1) * gains - 1, wanted)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(wanted).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator, device=device)
            made = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = (
            0.5
            * (
                posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()
            ).mean()
        )
        loss: Tensor = reconstruction_loss(made.float(), wanted) + KL_WEIGHT * kl
        return loss

    report = optimise(draw_loss, list(vae.parameters()), config, "autoencoder")
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    spread = encode(vae, images[:: max(1, len(images) // 4096)], scaled=False).std()
    vae.register_to_config(scaling_factor=float(1 / spread))
    return vae, report


@torch.no_grad()
def encode(vae: Any, images: Tensor, scaled: bool = True, chunk: int = 1024) -> Tensor:
    """Return latents (n, 4, 16, 16) in float16 of uint8 images (n, 3, 64, 64)."""
    device = next(vae.parameters()).device
    factor = vae.config.scaling_factor if scaled else 1.0
    parts = [
        (vae.encode(part.to(device).float() / 127.5 - 1).latent_dist.mean * factor).half()
        for part in images.split(chunk)
    ]
    return torch.cat(parts)
