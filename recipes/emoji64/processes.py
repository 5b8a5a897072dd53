"""How is a stage's work spread over GPUs? In processes of their own, each with a share of it."""

import os
import subprocess
import sys
from collections.abc import Sequence

from recipes.emoji64.recipe_settings import RecipeSettings


def shares_of(names: Sequence[str], workers: int) -> list[list[str]]:
    """Return the names dealt out to at most so many workers; no share is empty."""
    return [list(names[number::workers]) for number in range(min(workers, len(names)))]


def run_in_processes(settings: RecipeSettings, stage: str, shares: Sequence[Sequence[str]]) -> None:
    """Make each share of a stage in a process of its own, on the GPUs in turn, and wait for all.

    What a process could not make is missing afterwards: the caller has to look.

    Args:
        settings: where they read and write.
        stage: one that takes `--only`.
        shares: what each process makes.
    """
    gpus = settings.gpus if settings.device == "cuda" else ()
    threads = max(1, (os.cpu_count() or 1) // max(1, len(shares)))
    processes = []
    for number, share in enumerate(shares):
        # as many threads as there are cores in each process would fight over them
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpus[number % len(gpus)])
        command = _command(settings, stage, share)
        processes.append(subprocess.Popen(command, env=environment))
    try:
        for process in processes:
            process.wait()
    finally:  # whoever stops this process stops what it started
        for process in processes:
            process.terminate()


def _command(settings: RecipeSettings, stage: str, share: Sequence[str]) -> list[str]:
    given = {
        "--cache": settings.cache,
        "--out": settings.out,
        "--device": settings.device,
        "--scorer-seconds": settings.scorer_seconds,
        "--only": ",".join(share),
    }
    options = [str(part) for option in given.items() for part in option]
    rehearsed = ["--rehearse"] if settings.pictures is not None else []
    return [sys.executable, "-m", "recipes.emoji64", stage, *options, *rehearsed]
