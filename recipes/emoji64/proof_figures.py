"""How are the proofs drawn? Contact sheets, heat maps and curves, with nothing but Pillow."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffgraph.artifacts import new_file

CAPTION = 13  # pixels under an image or beside a row
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#111111")


def save_sheet(
    images: Tensor, captions: Sequence[str], columns: int, path: Path, scale: int = 1
) -> None:
    """Save a contact sheet.

    Args:
        images: (n, 3, h, w), uint8.
        captions: one an image; an empty one leaves the space blank.
        columns: images a row.
        path: a PNG file.
        scale: pixels a pixel.
    """
    height, width = images.shape[-2] * scale, images.shape[-1] * scale
    rows = math.ceil(len(images) / columns)
    band = CAPTION if any(captions) else 0
    sheet = Image.new("RGB", (columns * (width + 4), rows * (height + band + 4)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = number % columns * (width + 4), number // columns * (height + band + 4)
        sheet.paste(_picture(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        pen.text((left, top + height + 1), _fitted(caption, width, font), "black", font)
    _save(sheet, path)


def save_rows(
    rows: Mapping[str, Tensor], blocks: int, path: Path, heads: Sequence[str] = ()
) -> None:
    """Save rows of images (n, 3, h, w), uint8, a name before each, in `blocks` side by side.

    `heads`, if there are any, stand over the columns.
    """
    names = list(rows)
    deep = math.ceil(len(names) / blocks)
    count, _, height, width = next(iter(rows.values())).shape
    label, font = 118, ImageFont.load_default(10)
    step = label + count * (width + 2) + 10
    band = CAPTION + 2 if heads else 0
    sheet = Image.new("RGB", (blocks * step, deep * (height + 2) + band), "white")
    pen = ImageDraw.Draw(sheet)
    for place in range(len(heads) * blocks):
        left = place // len(heads) * step + label + place % len(heads) * (width + 2)
        head = _fitted(heads[place % len(heads)], width, ImageFont.load_default(8))
        pen.text((left, 2), head, "black", ImageFont.load_default(8))
    for number, name in enumerate(names):
        left, top = number // deep * step, number % deep * (height + 2) + band
        pen.text((left + 2, top + height // 2 - 6), _fitted(name, label, font), "black", font)
        for place, image in enumerate(rows[name]):
            sheet.paste(_picture(image), (left + label + place * (width + 2), top))
    _save(sheet, path)


def save_heat_map(values: Tensor, rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Save a matrix (rows, columns): red above zero, blue below."""
    cell, label = 15, 150
    sheet = Image.new(
        "RGB", (label + cell * len(columns) + 4, label + cell * len(rows) + 4), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    most = max(float(values.abs().max()), 1e-9)
    for row, name in enumerate(rows):
        top = label + row * cell
        pen.text((2, top + 1), _fitted(name, label, font), "black", font)
        for column in range(len(columns)):
            left = label + column * cell
            shade = _shade(float(values[row, column]) / most)
            pen.rectangle((left, top, left + cell - 2, top + cell - 2), shade)
    for column, name in enumerate(columns):
        upright = Image.new("RGB", (label - 4, cell), "white")
        ImageDraw.Draw(upright).text((0, 1), name, "black", font)
        sheet.paste(upright.rotate(90, expand=True), (label + column * cell, 2))
    _save(sheet, path)


def save_curves(
    across: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, path: Path
) -> None:
    """Save curves over common values, each brought to 0 at its lowest and 1 at its highest."""
    width, height, left, top = 520, 300, 40, 26
    sheet = Image.new("RGB", (width + left + 150, height + top + 34), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    pen.rectangle((left, top, left + width, top + height), outline="#888888")
    pen.text((left, 6), title, "black", font)

    def place(value: float) -> float:
        return left + width * (value - across[0]) / (across[-1] - across[0])

    for value in across:
        pen.text((place(value) - 8, top + height + 6), f"{value:g}", "black", font)
    for number, (name, values) in enumerate(curves.items()):
        low, high = min(values), max(values)
        span = max(high - low, 1e-9)
        points = [
            (place(x), top + height * (0.97 - 0.94 * (y - low) / span))
            for x, y in zip(across, values, strict=True)
        ]
        colour = COLOURS[number % len(COLOURS)]
        pen.line(points, colour, 2)
        pen.text((left + width + 10, top + 16 * number), name, colour, font)
    _save(sheet, path)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.to("cpu", torch.uint8).permute(1, 2, 0).numpy())


def _shade(value: float) -> tuple[int, int, int]:
    fade = round(255 * (1 - min(1.0, abs(value))))
    return (255, fade, fade) if value > 0 else (fade, fade, 255)


def _fitted(text: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _save(sheet: Image.Image, path: Path) -> None:
    with new_file(path) as part:
        sheet.quantize(256, dither=Image.Dither.NONE).save(part, "PNG", optimize=True)
