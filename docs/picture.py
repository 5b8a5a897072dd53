"""Draws the README's picture from real output: prompts down, methods across.

    python docs/picture.py docs/pictures/methods.webp bench-003 bench-017 …

Without ids, five prompts that are spread over the bench. Nothing is picked by its reward.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from diffgraph.evaluation.figure import SHOWN, write_figure
from diffgraph.evaluation.gathering import comparisons
from diffgraph.evaluation.harness import Bench, EvaluationConfig, evaluate, evenly
from diffgraph.evaluation.prompt_sets import load_prompts
from diffgraph.scoring import score
from diffgraph.session import Session
from diffgraph.settings import Settings

ROWS = 5
QUALITY = 75  # of WebP, 0 to 100: a tenth of a PNG's bytes


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


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
