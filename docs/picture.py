"""Draws the README's picture from real output: prompts down, methods across.

    python docs/picture.py docs/pictures/methods.webp bench-003 bench-017 …

Without ids, five prompts that are spread over the bench. Nothing is picked by its reward.
"""

import io
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffgraph.artifacts import write_bytes
from diffgraph.errors import InputError
from diffgraph.evaluation.gathering import comparisons
from diffgraph.evaluation.harness import Bench, EvaluationConfig, evaluate, evenly
from diffgraph.evaluation.prompt_sets import load_prompts
from diffgraph.evaluation.report import METHOD_TITLES, Comparison, Picture, plain
from diffgraph.scoring import score
from diffgraph.session import Session
from diffgraph.settings import Settings

ROWS = 5
QUALITY = 75  # of WebP, 0 to 100: a tenth of a PNG's bytes
CELL, GAP, LEFT, TOP, FOOT = 144, 12, 250, 44, 20
"""Pixels: a picture's side, the space between, the room for prompts, for titles, below."""

PAPER, INK, SOFT, ACCENT = (255, 255, 255), (18, 21, 29), (91, 99, 115), (74, 63, 214)
WRAP = 24
"""Letters a line of a prompt."""

SHOWN = ("base", "best_single", "uniform", "diffgraph")
"""The methods of the picture, in its order."""


def main(path: Path, ids: list[str]) -> None:
    """Draw the prompts with every method, and write the picture."""
    session = Session.of(Settings())
    prompts = load_prompts("bench")
    chosen = [prompt for prompt in prompts if prompt.id in ids] or evenly(prompts, ROWS)
    bench = Bench(
        make_plans=session.plans,
        render=session.renderer.render,
        score=lambda images, texts: score(session.scorers, images, texts),
        reward=session.graph.reward.of,
        identity="picture",
    )
    config = EvaluationConfig(methods=SHOWN, seeds=(0,), keep_images=len(chosen))
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate(chosen, bench, Path(folder), config)
        names = dict(zip(session.graph.refs, session.graph.names, strict=True))
        drawn = Path(folder) / "figure.png"
        write_figure(drawn, comparisons(result, names))
        with Image.open(drawn) as figure:
            figure.convert("RGB").save(path, quality=QUALITY, method=6)


def write_figure(
    path: Path, comparisons: Sequence[Comparison], methods: Sequence[str] = SHOWN
) -> Path:
    """Write a grid of real pictures as PNG: a row a prompt, a column a method.

    Args:
        path: the PNG.
        comparisons: the rows, as for the report.
        methods: the columns; the last one is marked as ours.

    Raises:
        InputError: there is nothing to show, or a prompt lacks a method's picture.
    """
    if not comparisons:
        raise InputError("no prompts to make a figure of")
    width = LEFT + len(methods) * (CELL + GAP) + GAP
    height = TOP + len(comparisons) * (CELL + GAP) + FOOT
    figure = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(figure)
    title, text, small = _font(14, bold=True), _font(15), _font(12)
    for column, method in enumerate(methods):
        place = (LEFT + column * (CELL + GAP) + CELL / 2, TOP - 14)
        colour = ACCENT if method == methods[-1] else INK
        draw.text(place, METHOD_TITLES.get(method, method), colour, title, anchor="ms")
    for row, comparison in enumerate(comparisons):
        top = TOP + row * (CELL + GAP)
        found = {picture.method: picture for picture in comparison.pictures}
        if missing := [method for method in methods if method not in found]:
            raise InputError(f"{comparison.prompt!r} was not drawn by {', '.join(missing)}")
        lines = _wrapped(plain(comparison.prompt, 120))
        draw.multiline_text((20, top + 6), "\n".join(lines), INK, text, spacing=5)
        told = _told(found[methods[-1]])
        draw.multiline_text((20, top + 16 + 23 * len(lines)), told, SOFT, small, spacing=5)
        for column, method in enumerate(methods):
            left = LEFT + column * (CELL + GAP)
            with Image.open(io.BytesIO(found[method].png)) as picture:
                cell = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
            figure.paste(cell, (left, top), _rounded())
            if method == methods[-1]:
                box = (left - 3, top - 3, left + CELL + 2, top + CELL + 2)
                draw.rounded_rectangle(box, 14, outline=ACCENT, width=3)
    out = io.BytesIO()
    figure.save(out, "PNG", optimize=True)
    write_bytes(path, out.getvalue())
    return path


def _told(picture: Picture) -> str:
    """Return the experts and what they count, the strongest four."""
    parts = sorted(picture.parts, key=lambda part: -part.coefficient)[:4]
    return "\n".join(f"{part.coefficient:.2f}  {plain(part.name, 26)}" for part in parts)


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WRAP:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _rounded() -> Image.Image:
    """Return a mask with round corners, drawn four times as large: smooth."""
    mask = Image.new("L", (4 * CELL, 4 * CELL), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * CELL - 1, 4 * CELL - 1), 48, fill=255)
    return mask.resize((CELL, CELL), Image.Resampling.LANCZOS)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib: the same picture on every machine."""
    # found and not imported: that would read `matplotlibrc` of the folder where we were started
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("matplotlib is not installed")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name, size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
