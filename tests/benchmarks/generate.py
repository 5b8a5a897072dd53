"""How long does a person wait for an image? `python tests/benchmarks/generate.py [device]`"""

import sys
import tempfile
import time
from pathlib import Path

started = time.perf_counter()

from measuring import bundled, readable, tell  # noqa: E402 (imports are part of the wait)

from diffgraph.generation import as_image, save_png  # noqa: E402
from diffgraph.merging.plan import MergePlan  # noqa: E402


def main() -> None:
    """Print the figures."""
    merger, files = bundled(device=sys.argv[1] if len(sys.argv) > 1 else "cpu")
    figures = {"import_and_load_seconds": round(time.perf_counter() - started, 3)}
    deltas = readable(merger, files)
    chosen = list(deltas)
    for turn, name in enumerate(
        ("first_image_seconds", "next_image_seconds", "third_image_seconds")
    ):
        start = time.perf_counter()
        merger.apply(dict.fromkeys(chosen[turn::3][:4], 0.7), deltas)
        image = merger.model.sample(["a smiling robot, pencil sketch"], [turn])[0]
        with tempfile.TemporaryDirectory() as folder:
            plan = MergePlan(family="emoji64")
            save_png(Path(folder) / "image.png", as_image(image, plan), plan, "robot", turn)
        figures[name] = round(time.perf_counter() - start, 3)
    for count in (4, 16):
        start = time.perf_counter()
        merger.model.sample(["a cat"] * count, list(range(count))).cpu()
        figures[f"seconds_an_image_of_{count}"] = round((time.perf_counter() - start) / count, 3)
    tell("generate", figures)


if __name__ == "__main__":
    main()
