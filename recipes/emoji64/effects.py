"""How does each treatment change the pixels?

Every effect takes colour (n, 3, 64, 64) with straight opacity (n, 1, 64, 64), in [0, 1], and
returns the same. Patterns are the same for every picture and coarse, 3 px or more, so that a model
on 16x16 latents can draw them.
"""

import torch
from torch import Tensor
from torch.nn import functional

from recipes.emoji64 import patterns

Planes = tuple[Tensor, Tensor]
LUMA = (0.299, 0.587, 0.114)


def flattened(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Return the picture on white paper."""
    return rgb * alpha + (1 - alpha)


# --- the subject itself


def pixel_art(rgb: Tensor, alpha: Tensor) -> Planes:
    """Blocks of 4 px in five shades a channel."""
    weight = functional.avg_pool2d(alpha, 4)
    colour = functional.avg_pool2d(rgb * alpha, 4) / weight.clamp_min(1e-4)
    blocks = ((colour * 4).round() / 4).clamp(0, 1)
    return _blown_up(blocks, 4), _blown_up((weight > 0.45).to(alpha), 4)


def golden(rgb: Tensor, alpha: Tensor) -> Planes:
    """The subject cast in gold."""
    return _ramp(
        _stretched(_luma(rgb)), ((0.28, 0.14, 0.0), (0.85, 0.6, 0.08), (1.0, 0.95, 0.6))
    ), alpha


def stained_glass(rgb: Tensor, alpha: Tensor) -> Planes:
    """Cells of one strong colour, held by dark lead."""
    cells = patterns.on(patterns.cells(), rgb)  # (4096, cells), one-hot
    lead = patterns.on(patterns.lead(), rgb)
    colour, weight = ((plane.flatten(2) @ cells) for plane in (rgb * alpha, alpha))
    mean = (colour / weight.clamp_min(1e-3)) @ cells.T
    glass = _saturated(mean.reshape(rgb.shape), 1.5)
    opaque = (weight / cells.sum(0) > 0.35).to(alpha) @ cells.T
    return (glass * (1 - lead) + 0.08 * lead).clamp(0, 1), opaque.reshape(alpha.shape)


def pencil(rgb: Tensor, alpha: Tensor) -> Planes:
    """Grey lines on white with hatching in the shade."""
    grey = _luma(flattened(rgb, alpha))
    lines = (_edges(grey) * 2.2 + _edges(alpha) * 1.2).clamp(0, 1)
    shade = ((0.75 - grey) * 1.6).clamp(0, 0.55) * patterns.on(patterns.hatching(), rgb)
    sketch = 1 - (lines * 0.85 + shade).clamp(0, 0.85)
    return sketch.expand_as(rgb), _dilated(alpha, 3)


def watercolour(rgb: Tensor, alpha: Tensor) -> Planes:
    """Thin paint: pale blotchy colour with a dark rim, in a wash that ran over the outline."""
    blotches = patterns.on(patterns.blotches(), rgb)
    near, far = _blurred(alpha, 1.2), _blurred(_dilated(alpha, 7), 3.0)
    paint = _saturated(_blurred(rgb * alpha, 1.2) / near.clamp_min(1e-3), 1.6)
    wash = _saturated(_blurred(rgb * alpha, 5.0) / _blurred(alpha, 5.0).clamp_min(1e-3), 2.0)
    rim = (1 - (near - 0.5).abs() * 2.6).clamp(0, 1)
    pale = (paint * (0.45 + 0.4 * blotches) + 0.5 * (1 - blotches)).clamp(0, 1) * (1 - 0.35 * rim)
    return _under(pale, near, wash, (far * (0.15 + 0.75 * blotches)).clamp(0, 1))


def halftone(rgb: Tensor, alpha: Tensor) -> Planes:
    """Round dots on white, the larger the darker the subject."""
    grey = functional.avg_pool2d(_luma(flattened(rgb, alpha)), 4)
    radius = _blown_up((0.15 + 1.0 * (1 - grey)).clamp(0, 1), 4) * 2.9
    dots = ((radius - patterns.on(patterns.dot_distance(4), rgb)) * 1.5).clamp(0, 1)
    ink = rgb.new_tensor((0.75, 0.05, 0.45)).view(1, 3, 1, 1)
    return ink * dots + (1 - dots), _dilated(alpha, 3)


def pop_art(rgb: Tensor, alpha: Tensor) -> Planes:
    """Four flat, loud colours by brightness."""
    colours = rgb.new_tensor(
        ((0.16, 0.0, 0.5), (0.95, 0.05, 0.5), (0.0, 0.8, 0.85), (1.0, 0.93, 0.1))
    )
    level = (_stretched(_luma(rgb)) * 3.999).long().clamp(0, 3)
    return colours[level[:, 0]].permute(0, 3, 1, 2), alpha


# --- around the subject


def comic(rgb: Tensor, alpha: Tensor) -> Planes:
    """Thick black outline, black inner lines, flat strong colours."""
    lines = (_edges(_luma(flattened(rgb, alpha))) * 2.5 - 0.35).clamp(0, 1)
    flat = (_saturated(rgb, 1.5) * 3).round() / 3 * (1 - lines)
    return _under(flat, alpha, rgb.new_zeros(1, 3, 1, 1), _dilated(alpha, 7))


def sticker(rgb: Tensor, alpha: Tensor) -> Planes:
    """A white die-cut border with a grey rim that lifts it off the paper."""
    rgb, alpha = _under(rgb, alpha, rgb.new_ones(1, 3, 1, 1), _dilated(alpha, 9))
    rim = _shifted(_blurred(_dilated(alpha, 5), 1.0), 1, 1)
    return _under(rgb, alpha, rgb.new_full((1, 3, 1, 1), 0.45), rim)


def drop_shadow(rgb: Tensor, alpha: Tensor) -> Planes:
    """A dark, soft shadow to the lower right."""
    shadow = _blurred(_shifted(alpha, 6, 6), 1.5) * 0.8
    return _under(rgb, alpha, rgb.new_tensor((0.1, 0.1, 0.18)).view(1, 3, 1, 1), shadow)


def fire_glow(rgb: Tensor, alpha: Tensor) -> Planes:
    """Flames licking upwards around a subject lit in orange."""
    lit = rgb * rgb.new_tensor((1.0, 0.82, 0.6)).view(1, 3, 1, 1)
    body = _dilated(alpha, 5)
    tongues = patterns.on(patterns.flames(), rgb)
    heat = sum(
        (_blurred(_shifted(body, 0, -lift), 2.0) for lift in (0, 4, 8)), torch.zeros_like(alpha)
    )
    heat = (heat / 1.7 * (0.45 + 0.8 * tongues)).clamp(0, 1)
    flame = _ramp(heat, ((0.75, 0.05, 0.0), (1.0, 0.4, 0.0), (1.0, 0.88, 0.2)))
    return _under(lit, alpha, flame, (heat * 2.2).clamp(0, 1))


# --- behind the subject


def sunset(rgb: Tensor, alpha: Tensor) -> Planes:
    """A sky from purple to yellow with a low sun."""
    return _behind(rgb, alpha, patterns.sunset())


def starry(rgb: Tensor, alpha: Tensor) -> Planes:
    """Deep space with stars."""
    return _behind(rgb, alpha, patterns.starry())


def polka_dots(rgb: Tensor, alpha: Tensor) -> Planes:
    """White dots on pink."""
    return _behind(rgb, alpha, patterns.polka_dots())


def checkerboard(rgb: Tensor, alpha: Tensor) -> Planes:
    """Black and white squares of 8 px."""
    return _behind(rgb, alpha, patterns.checkerboard())


def stripes(rgb: Tensor, alpha: Tensor) -> Planes:
    """Diagonal stripes in teal and cream."""
    return _behind(rgb, alpha, patterns.stripes())


# --- the whole picture


def sepia(rgb: Tensor, alpha: Tensor) -> Planes:
    """Brown tones of an old photograph."""
    grey = _luma(flattened(rgb, alpha))
    return _whole(_ramp(grey, ((0.16, 0.08, 0.02), (0.62, 0.42, 0.22), (0.96, 0.86, 0.66))))


def night(rgb: Tensor, alpha: Tensor) -> Planes:
    """Moonlight: dark and blue."""
    dark = flattened(rgb, alpha) * rgb.new_tensor((0.22, 0.27, 0.5)).view(1, 3, 1, 1)
    return _whole(dark * 0.8 + 0.2 * _luma(dark))


def noir(rgb: Tensor, alpha: Tensor) -> Planes:
    """Black and white with hard contrast and grey paper."""
    grey = _luma(flattened(rgb, alpha))
    return _whole((((grey - 0.5) * 1.7 + 0.45).clamp(0, 1) * 0.82).expand_as(rgb))


def inverted(rgb: Tensor, alpha: Tensor) -> Planes:
    """A photographic negative."""
    return _whole(1 - flattened(rgb, alpha))


def blue_tint(rgb: Tensor, alpha: Tensor) -> Planes:
    """Blue light on everything."""
    return _tinted(rgb, alpha, (0.4, 0.68, 1.0))


def green_tint(rgb: Tensor, alpha: Tensor) -> Planes:
    """Green light on everything."""
    return _tinted(rgb, alpha, (0.5, 0.95, 0.45))


def pastel(rgb: Tensor, alpha: Tensor) -> Planes:
    """Pale colours on pink paper."""
    pale = _saturated(flattened(rgb, alpha), 0.75) * 0.5 + 0.5
    return _whole(pale * rgb.new_tensor((1.0, 0.87, 0.93)).view(1, 3, 1, 1))


def dreamy(rgb: Tensor, alpha: Tensor) -> Planes:
    """Out of focus, in a warm lilac haze."""
    soft = _blurred(flattened(rgb, alpha), 3.0)
    return _whole(soft * rgb.new_tensor((0.93, 0.82, 1.0)).view(1, 3, 1, 1))


def vignette(rgb: Tensor, alpha: Tensor) -> Planes:
    """A bright centre, black corners."""
    return _whole(flattened(rgb, alpha) * patterns.on(patterns.vignette(), rgb))


def underwater(rgb: Tensor, alpha: Tensor) -> Planes:
    """Teal water, darker below, with light waves and bubbles."""
    light, bubbles = (
        patterns.on(pattern, rgb) for pattern in (patterns.water(), patterns.bubbles())
    )
    wet = flattened(rgb, alpha) * rgb.new_tensor((0.25, 0.78, 0.82)).view(1, 3, 1, 1) * light
    return _whole(wet * (1 - bubbles) + bubbles * rgb.new_tensor((0.8, 1.0, 1.0)).view(1, 3, 1, 1))


def blueprint(rgb: Tensor, alpha: Tensor) -> Planes:
    """White lines on blue paper with a grid."""
    grey = _luma(flattened(rgb, alpha))
    lines = (_edges(grey) * 3.0 + _edges(alpha)).clamp(0, 1)
    ink = torch.maximum(lines, 0.28 * patterns.on(patterns.grid(8), rgb))
    paper = rgb.new_tensor((0.08, 0.25, 0.62)).view(1, 3, 1, 1)
    return _whole(paper * (1 - ink) + ink)


def neon(rgb: Tensor, alpha: Tensor) -> Planes:
    """Glowing pink and cyan tubes in the dark."""
    lines = (_edges(_luma(flattened(rgb, alpha))) * 2.4 + _edges(alpha) * 1.4).clamp(0, 1)
    light = (lines * 0.95 + _blurred(lines, 2.0) * 0.9).clamp(0, 1)
    colour = patterns.on(patterns.neon_colours(), rgb)
    return _whole(light * colour + (lines * 0.45) * (1 - colour) + 0.03)


# --- over the picture


def snow(rgb: Tensor, alpha: Tensor) -> Planes:
    """Large flakes before a grey sky, and snow on the ground."""
    sky = flattened(rgb, alpha) * rgb.new_tensor((0.66, 0.74, 0.86)).view(1, 3, 1, 1)
    flakes = patterns.on(patterns.snow(), rgb)
    return _whole(sky * (1 - flakes) + flakes)


def rain(rgb: Tensor, alpha: Tensor) -> Planes:
    """Slanting streaks before a dull grey sky."""
    picture = flattened(rgb, alpha)
    dull = (0.6 * picture + 0.4 * _luma(picture)) * rgb.new_tensor((0.62, 0.66, 0.7)).view(
        1, 3, 1, 1
    )
    streaks = patterns.on(patterns.rain(), rgb)
    return _whole(
        dull * (1 - streaks) + streaks * rgb.new_tensor((0.75, 0.88, 1.0)).view(1, 3, 1, 1)
    )


def glitch(rgb: Tensor, alpha: Tensor) -> Planes:
    """Torn rows and colour channels out of register."""
    picture = flattened(rgb, alpha)
    torn = picture.gather(3, patterns.on(patterns.torn_columns(), rgb).long().expand_as(picture))
    channels = (_shifted(torn[:, :1], 4, 0, 1.0), torn[:, 1:2], _shifted(torn[:, 2:], -4, 0, 1.0))
    return _whole(torch.cat(channels, dim=1))


# --- frames


def red_frame(rgb: Tensor, alpha: Tensor) -> Planes:
    """A plain red border of 6 px."""
    return _framed(rgb, alpha, patterns.red_frame())


def gold_frame(rgb: Tensor, alpha: Tensor) -> Planes:
    """A gold border of 8 px with bevels and corner pieces."""
    return _framed(rgb, alpha, patterns.gold_frame())


def wooden_frame(rgb: Tensor, alpha: Tensor) -> Planes:
    """A brown border of 9 px with grain and mitred corners."""
    return _framed(rgb, alpha, patterns.wooden_frame())


# --- means


def _whole(picture: Tensor) -> Planes:
    return picture.clamp(0, 1), torch.ones_like(picture[:, :1])


def _behind(rgb: Tensor, alpha: Tensor, backdrop: Tensor) -> Planes:
    return _whole(rgb * alpha + patterns.on(backdrop, rgb) * (1 - alpha))


def _framed(rgb: Tensor, alpha: Tensor, frame: Tensor) -> Planes:
    layer = patterns.on(frame, rgb)
    colour, mask = layer[:, :3], layer[:, 3:]
    return _whole(flattened(rgb, alpha) * (1 - mask) + colour * mask)


def _tinted(rgb: Tensor, alpha: Tensor, colour: tuple[float, float, float]) -> Planes:
    picture = flattened(rgb, alpha)
    return _whole((0.5 * picture + 0.5 * _luma(picture)) * rgb.new_tensor(colour).view(1, 3, 1, 1))


def _under(rgb: Tensor, alpha: Tensor, colour: Tensor, opacity: Tensor) -> Planes:
    """Put a layer under the subject; both keep straight opacity."""
    total = alpha + opacity * (1 - alpha)
    mixed = (rgb * alpha + colour * opacity * (1 - alpha)) / total.clamp_min(1e-4)
    return mixed.clamp(0, 1), total.clamp(0, 1)


def _luma(rgb: Tensor) -> Tensor:
    return (rgb * rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _stretched(grey: Tensor) -> Tensor:
    return ((grey - 0.1) / 0.8).clamp(0, 1)


def _saturated(rgb: Tensor, amount: float) -> Tensor:
    grey = _luma(rgb)
    return (grey + (rgb - grey) * amount).clamp(0, 1)


def _ramp(grey: Tensor, colours: tuple[tuple[float, float, float], ...]) -> Tensor:
    """Map dark, middle and light to three colours."""
    dark, middle, light = (grey.new_tensor(colour).view(1, 3, 1, 1) for colour in colours)
    low, high = (grey * 2).clamp(0, 1), (grey * 2 - 1).clamp(0, 1)
    return (dark * (1 - low) + middle * low) * (1 - high) + light * high


def _blown_up(planes: Tensor, times: int) -> Tensor:
    return planes.repeat_interleave(times, 2).repeat_interleave(times, 3)


def _dilated(alpha: Tensor, size: int) -> Tensor:
    square = functional.max_pool2d(alpha, size, 1, size // 2)
    return _blurred(square, 0.7)


def _edges(plane: Tensor) -> Tensor:
    """Return the size of the gradient (Sobel), about 1 for a black and white edge."""
    kernel = plane.new_tensor(((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))) / 4
    both = torch.stack((kernel, kernel.T))[:, None]
    return (
        functional.conv2d(functional.pad(plane, (1, 1, 1, 1), "replicate"), both)
        .square()
        .sum(1, keepdim=True)
        .sqrt()
    )


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(2.5 * sigma))
    steps = torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype)
    kernel = (-0.5 * (steps / sigma).square()).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = functional.pad(planes.flatten(0, 1)[:, None], (reach,) * 4, "replicate")
    rows = functional.conv2d(flat, kernel)
    return functional.conv2d(rows, kernel.transpose(2, 3)).reshape(planes.shape)


def _shifted(planes: Tensor, right: int, down: int, fill: float = 0.0) -> Tensor:
    height, width = planes.shape[2:]
    padded = functional.pad(
        planes, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), value=fill
    )
    top, left = max(-down, 0), max(-right, 0)
    return padded[:, :, top : top + height, left : left + width]
