"""How can an image be spoilt? Six ways, for scorers to learn what a bad image is."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from recipes.emoji64.truth import as_float

WAYS = ("noise", "blur", "saturation", "grey", "blocks", "cut-out")


def degraded(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, 3, 64, 64), uint8, each spoilt in one way, more or less: uint8.

    Every way is worked out for all and one is chosen for each: that has no branch, so it can be
    recorded in a CUDA graph.
    """
    clear = as_float(images)
    count, device = len(clear), clear.device

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        return low + (high - low) * draw

    noise = clear + uniform(0.06, 0.35) * torch.randn(
        clear.shape, generator=generator, device=device
    )
    soft = F.avg_pool2d(F.pad(clear, (4, 4, 4, 4), mode="replicate"), 9, stride=1)
    blur = torch.lerp(clear, soft, uniform(0.5, 1.0))
    grey = clear.mean(1, keepdim=True)
    saturation = grey + (clear - grey) * uniform(1.8, 4.0)
    washed = torch.lerp(clear, uniform(0.2, 0.8).expand_as(clear), uniform(0.35, 0.8))
    coarse = F.interpolate(F.avg_pool2d(clear, 8), scale_factor=8.0, mode="nearest")
    blocks = torch.lerp(clear, coarse, uniform(0.4, 1.0))
    made = torch.stack([noise, blur, saturation, washed, blocks, _cut(clear, uniform)])
    way = torch.randint(len(WAYS), (count,), generator=generator, device=device)
    chosen = made[way, torch.arange(count, device=device)]
    return (chosen.clamp(0, 1) * 255).round().to(torch.uint8)


def _cut(clear: Tensor, uniform: Callable[[float, float], Tensor]) -> Tensor:
    """Return images with a rectangle painted over."""
    side = torch.arange(clear.shape[-1], device=clear.device)
    top, left = uniform(0, 40), uniform(0, 40)
    high, wide = uniform(14, 36), uniform(14, 36)
    rows, columns = side.view(1, 1, -1, 1), side.view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)
    return torch.where(inside, uniform(0, 1), clear)
