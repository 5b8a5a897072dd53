"""What fixed patterns do the treatments draw with: skies, grids, flakes, frames?

Each is made once on the CPU, from its own seed where it is irregular, as (1, channels, 64, 64) in
[0, 1].
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 64
CELL = 8


def on(pattern: Tensor, like: Tensor) -> Tensor:
    """Return the pattern where `like` lives, in its precision."""
    return _moved(pattern, like.device, like.dtype)


@cache
def _moved(pattern: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return pattern.to(device=device, dtype=dtype)


def _axes() -> tuple[Tensor, Tensor]:
    steps = torch.arange(SIZE, dtype=torch.float32)
    return steps[:, None].expand(SIZE, SIZE), steps[None, :].expand(SIZE, SIZE)


def _plane(values: Tensor) -> Tensor:
    return values[None, None].float().clamp(0, 1)


def _mixed(mask: Tensor, ink: tuple[float, ...], paper: tuple[float, ...]) -> Tensor:
    """Return ink where the mask is 1 and paper where it is 0: (1, 3, 64, 64)."""
    mask = mask.clamp(0, 1)[None, None]
    return torch.tensor(ink).view(1, 3, 1, 1) * mask + torch.tensor(paper).view(1, 3, 1, 1) * (
        1 - mask
    )


def _specks(seed: int, count: int, smallest: float, largest: float) -> Tensor:
    """Return round specks at random places: (64, 64)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = _axes()
    specks = torch.zeros(SIZE, SIZE)
    for row, column, size in torch.rand(count, 3, generator=generator).tolist():
        radius = smallest + size * (largest - smallest)
        distance = ((rows - row * SIZE).square() + (columns - column * SIZE).square()).sqrt()
        specks = torch.maximum(specks, (radius + 0.5 - distance).clamp(0, 1))
    return specks


@cache
def cells() -> Tensor:
    """Which of 64 irregular cells each pixel is in: (4096, 64), one-hot."""
    generator = torch.Generator().manual_seed(11)
    per_side = SIZE // CELL
    centre = torch.stack(
        torch.meshgrid(torch.arange(per_side), torch.arange(per_side), indexing="ij"), -1
    )
    points = ((centre + torch.rand(per_side, per_side, 2, generator=generator)) * CELL).flatten(
        0, 1
    )
    pixels = torch.stack(_axes(), -1).flatten(0, 1)
    return functional.one_hot(torch.cdist(pixels, points).argmin(1), len(points)).float()


@cache
def lead() -> Tensor:
    """The dark lines between the cells."""
    label = cells().argmax(1).view(SIZE, SIZE)
    line = torch.zeros(SIZE, SIZE)
    line[:, 1:] += label[:, 1:] != label[:, :-1]
    line[1:] += label[1:] != label[:-1]
    return _plane(line)


@cache
def hatching() -> Tensor:
    """Diagonal strokes, 4 px apart."""
    rows, columns = _axes()
    return _plane(((rows + columns) % 4 < 2).float() * 0.8 + 0.2)


@cache
def blotches() -> Tensor:
    """Soft, irregular patches."""
    generator = torch.Generator().manual_seed(12)
    coarse = torch.rand(1, 1, 10, 10, generator=generator)
    return functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)


@cache
def dot_distance(pitch: int) -> Tensor:
    """The distance to the centre of a grid's cell, in pixels."""
    rows, columns = ((axis % pitch) - (pitch - 1) / 2 for axis in _axes())
    return (rows.square() + columns.square()).sqrt()[None, None]


@cache
def flames() -> Tensor:
    """Wavy upright tongues."""
    rows, columns = _axes()
    return _plane(0.5 + 0.5 * torch.sin(columns * 0.75 + 1.6 * torch.sin(rows * 0.22)))


@cache
def sunset() -> Tensor:
    """Purple above, orange and yellow below, a sun at the lower left."""
    rows, columns = _axes()
    height = (rows / (SIZE - 1))[None, None]
    purple, orange, yellow = (
        torch.tensor(colour).view(1, 3, 1, 1)
        for colour in ((0.35, 0.1, 0.5), (0.98, 0.4, 0.2), (1.0, 0.85, 0.35))
    )
    low, high = (height * 2).clamp(0, 1), (height * 2 - 1).clamp(0, 1)
    sky = (purple * (1 - low) + orange * low) * (1 - high) + yellow * high
    sun = _plane(11 - ((rows - 50).square() + (columns - 12).square()).sqrt())
    return sky * (1 - sun) + torch.tensor((1.0, 0.97, 0.75)).view(1, 3, 1, 1) * sun


@cache
def starry() -> Tensor:
    """Stars on a very dark blue."""
    return _mixed(_specks(13, 60, 0.6, 1.5), (1.0, 0.98, 0.85), (0.04, 0.04, 0.2))


@cache
def polka_dots() -> Tensor:
    """White dots of 10 px on pink, 16 px apart, every other row moved."""
    rows, columns = _axes()
    moved = (columns + 8 * ((rows // 12) % 2)) % 16 - 8
    distance = ((rows % 12 - 6).square() + moved.square()).sqrt()
    return _mixed(4.4 - distance, (1.0, 1.0, 1.0), (0.96, 0.45, 0.65))


@cache
def checkerboard() -> Tensor:
    """Black and white squares of 8 px."""
    rows, columns = _axes()
    return _mixed(((rows // 8 + columns // 8) % 2).float(), (0.1, 0.1, 0.1), (0.95, 0.95, 0.95))


@cache
def stripes() -> Tensor:
    """Diagonal stripes, 8 px wide."""
    rows, columns = _axes()
    return _mixed(((rows + columns) % 16 < 8).float(), (0.1, 0.6, 0.6), (1.0, 0.93, 0.75))


@cache
def vignette() -> Tensor:
    """Light that falls off to black from 20 px outwards."""
    rows, columns = (axis - (SIZE - 1) / 2 for axis in _axes())
    distance = (rows.square() + columns.square()).sqrt()
    return _plane(1 - ((distance - 18) / 20).clamp(0, 1) * 0.95)


@cache
def water() -> Tensor:
    """Light through waves, fading with depth."""
    rows, columns = _axes()
    waves = torch.sin(rows * 0.55 + 2.0 * torch.sin(columns * 0.2)) * 0.13
    return _plane((1.0 - 0.5 * rows / SIZE) + waves)


@cache
def bubbles() -> Tensor:
    """Rings of several sizes."""
    rows, columns = _axes()
    rings = torch.zeros(SIZE, SIZE)
    for row, column, radius in (
        (8, 10, 4),
        (20, 55, 5),
        (36, 6, 3),
        (48, 57, 4),
        (57, 12, 5),
        (5, 38, 3),
    ):
        distance = ((rows - row).square() + (columns - column).square()).sqrt()
        rings = torch.maximum(rings, (1.6 - (distance - radius).abs()).clamp(0, 1))
    return _plane(rings * 0.9)


@cache
def grid(pitch: int) -> Tensor:
    """Thin lines both ways."""
    rows, columns = _axes()
    return _plane(((rows % pitch == 0) | (columns % pitch == 0)).float())


@cache
def neon_colours() -> Tensor:
    """Pink at the upper left, cyan at the lower right."""
    rows, columns = _axes()
    return _mixed((rows + columns) / (2 * SIZE - 2), (0.05, 0.95, 1.0), (1.0, 0.1, 0.75))


@cache
def snow() -> Tensor:
    """Flakes, and a white ground with a wavy edge."""
    rows, columns = _axes()
    ground = (rows - 55 + 2 * torch.sin(columns * 0.25)).clamp(0, 1)
    return _plane(torch.maximum(_specks(14, 55, 0.9, 2.3), ground))


@cache
def rain() -> Tensor:
    """Slanting streaks of 10 px."""
    generator = torch.Generator().manual_seed(15)
    rows, columns = _axes()
    streaks = torch.zeros(SIZE, SIZE)
    for row, column in (torch.rand(44, 2, generator=generator) * (SIZE + 8) - 4).tolist():
        along = rows - row
        beside = (columns - column + along * 0.4).abs()
        streaks = torch.maximum(streaks, (1.4 - beside).clamp(0, 1) * (along.abs() < 5))
    return _plane(streaks * 0.9)


@cache
def torn_columns() -> Tensor:
    """For each pixel, the column its colour comes from: bands of rows are moved sideways."""
    generator = torch.Generator().manual_seed(16)
    moves = torch.randint(-9, 10, (16,), generator=generator) * (torch.arange(16) % 3 != 0)
    _, columns = _axes()
    return ((columns + moves.repeat_interleave(4)[:, None]) % SIZE)[None, None]


def _border() -> Tensor:
    """Return the distance to the nearest edge of the picture, in pixels."""
    rows, columns = _axes()
    return torch.minimum(
        torch.minimum(rows, SIZE - 1 - rows), torch.minimum(columns, SIZE - 1 - columns)
    )


def _frame(colour: Tensor, width: int) -> Tensor:
    return torch.cat((colour.clamp(0, 1), _plane((_border() < width).float())), dim=1)


@cache
def red_frame() -> Tensor:
    """Plain red, 6 px: (1, 4, 64, 64), colour and mask."""
    return _frame(_mixed(torch.zeros(SIZE, SIZE), (0.0, 0.0, 0.0), (0.88, 0.08, 0.1)), 6)


@cache
def gold_frame() -> Tensor:
    """Bevelled gold, 8 px, with corner pieces: (1, 4, 64, 64)."""
    border = _border()
    shine = torch.sin(border * torch.pi / 3.5).square()
    colour = _mixed(shine, (1.0, 0.88, 0.35), (0.62, 0.42, 0.05))
    frame = _frame(colour, 8)
    rows, columns = (axis - (SIZE - 1) / 2 for axis in _axes())
    corner = ((rows.abs() + columns.abs()) > 50).float()
    frame[:, 3:] = torch.maximum(frame[:, 3:], _plane(corner))
    return frame


@cache
def wooden_frame() -> Tensor:
    """Brown boards with grain, 9 px, mitred: (1, 4, 64, 64)."""
    rows, columns = _axes()
    across = torch.minimum(columns, SIZE - 1 - columns) < torch.minimum(rows, SIZE - 1 - rows)
    along = torch.where(across, rows, columns)
    over = torch.where(across, columns, rows)
    grain = 0.5 + 0.5 * torch.sin(over * 1.6 + 1.2 * torch.sin(along * 0.25))
    dark_edge = ((_border() == 8) | (_border() == 0)).float()
    colour = _mixed(grain * (1 - dark_edge), (0.62, 0.38, 0.18), (0.36, 0.2, 0.08))
    return _frame(colour, 9)
