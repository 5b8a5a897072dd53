"""All benchmarks that need a GPU, in one run: `python tests/benchmarks/on_gpu.py FOLDER`.

Each writes FOLDER/speed-NAME.json as soon as it is done; one that fails writes its error there and
does not keep the others from running. `--small` tries it all out on a CPU.
"""

import argparse
import contextlib
import gc
import io
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from measuring import say, tell  # noqa: E402


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    device = "cpu" if given.small else "cuda"
    for name, work in _benchmarks(device, given.small, given.folder).items():
        if given.only and name not in given.only:
            continue
        start = time.perf_counter()
        say(f"== {name}")
        try:
            figures = work()
        except Exception as error:  # whatever it is, the next one runs
            traceback.print_exc()
            figures = {"error": repr(error)[:2000]}
        figures["whole benchmark_s"] = round(time.perf_counter() - start, 1)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            tell(f"{name}, {device}", figures)
        say(text.getvalue())
        (given.folder / f"speed-{name}-{device}.json").write_text(text.getvalue())
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _benchmarks(device: str, small: bool, folder: Path) -> dict[str, Callable[[], dict]]:
    def in_place() -> dict:
        import in_place

        return in_place.measure(device, torch.float16, small)

    def loras() -> dict:
        import lora_in_place

        return lora_in_place.measure(device, torch.float16, small)

    def flux() -> dict:
        import flux_in_place

        partial = folder / f"partial-flux-in-place-{device}.json"
        return flux_in_place.measure(device, small, partial=partial)

    def rollouts() -> dict:
        import rollouts

        return rollouts.measure(device, 4 if small else 32, small)

    def kernels() -> dict:
        root = Path(__file__).parents[2]
        command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*command, "tests/diffgraph/merging/test_fused.py"],
            cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return {"passed": run.returncode == 0, "told": run.stdout[-1500:].splitlines()}

    return {
        "kernels": kernels,
        "rollouts": rollouts,
        "loras-in-place": loras,
        "in-place": in_place,
        "flux-in-place": flux,
    }


if __name__ == "__main__":
    main()
