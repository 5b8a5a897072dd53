"""Is `make test` green in any order? It is run in several, one after the other; some beside loops.

    python -m tests.orders --orders 10 --busy 2

Each line is a seed and what came of it; `make test SEED=…` runs that order again.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOOP = "import os; mine = os.getppid()\nwhile os.getppid() == mine: pass"  # ends when we do


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Let this many processes do nothing as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def run(target: str, seed: int, loops: int, log: Path) -> bool:
    """Run the target in this order; return whether it was green."""
    start = time.monotonic()
    with busy_loops(loops), log.open("wb") as out:
        done = subprocess.run(
            ["make", target, f"SEED={seed}"], cwd=ROOT, stdout=out, stderr=out, check=False
        )
    green = done.returncode == 0
    sys.stdout.write(
        f"{target} SEED={seed} beside {loops} busy loops: {'green' if green else 'RED'} "
        f"in {time.monotonic() - start:.0f} s{'' if green else f', see {log}'}\n"
    )
    sys.stdout.flush()
    return green


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=10, help="how many orders")
    parser.add_argument("--busy", type=int, default=2, help="how many of them beside busy loops")
    parser.add_argument("--loops", type=int, default=16, help="how many loops those are")
    parser.add_argument("--seed", type=int, help="the first order; by default any")
    parser.add_argument("--target", default="test", help="what make is to run")
    parser.add_argument("--logs", type=Path, default=ROOT / "out" / "orders")
    given = parser.parse_args(arguments)
    given.logs.mkdir(parents=True, exist_ok=True)
    first = random.SystemRandom().getrandbits(31) if given.seed is None else given.seed
    results = [
        run(given.target, seed, given.loops if turn < given.busy else 0, given.logs / f"{seed}.log")
        for turn, seed in enumerate(range(first, first + given.orders))
    ]
    sys.stdout.write(f"{sum(results)} of {len(results)} orders are green\n")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
