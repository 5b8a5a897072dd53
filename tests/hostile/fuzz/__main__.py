"""Try hostile inputs for as long as is asked: `python -m tests.hostile.fuzz --minutes 60`.

Every kind takes its turn with a new seed, in a process of its own, so that one that dies or hangs
is a finding too. A finding is printed with its seed and kept under `out/fuzz`; the others go on.
"""

import argparse
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from hypothesis.errors import HypothesisWarning

from tests.hostile.fuzz.properties import PROPERTIES
from tests.hostile.fuzz.running import try_examples

EXAMPLES = 400
HANGS = 900.0  # seconds after which a turn has hung: examples have bounds of their own
FORK = multiprocessing.get_context("fork")
LONGEST_LINE = 300  # characters of a finding's lines that are printed; the file has them whole
ROOT = str(Path(__file__).parents[3])


class Finding(NamedTuple):
    """What broke a rule."""

    where: str
    told: str


class Run:
    """Turns of all kinds, several at a time, until the time is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.first = time.monotonic()
        self.tried: Counter[str] = Counter()
        self.findings: dict[str, Finding] = {}
        self._turns = self._all_turns()
        self._guard = threading.Lock()

    def work(self) -> None:
        """Take turns until none is left."""
        while True:
            with self._guard:
                turn = next(self._turns, None)
            if turn is None:
                return
            found = _turn(*turn)
            with self._guard:
                self._tell(*turn, found)

    def _all_turns(self) -> Iterator[tuple[str, int]]:
        number = self.options.seed
        while True:
            for name in self.options.only or PROPERTIES:
                if time.monotonic() - self.first > 60 * self.options.minutes:
                    return
                yield name, number
                number += 1

    def _tell(self, name: str, number: int, found: Finding | None) -> None:
        self.tried[name] += EXAMPLES
        minutes, seconds = divmod(int(time.monotonic() - self.first), 60)
        said = f"broken: {found.where}" if found else "holds"
        say(f"{minutes:3d}:{seconds:02d} {name}, seed {number}: {said}")
        if found is None or found.where in self.findings:
            return
        self.findings[found.where] = found
        folder = Path(self.options.out)
        folder.mkdir(parents=True, exist_ok=True)
        text = found.told.encode("utf-8", "replace")
        (folder / f"{name.replace(' ', '-')}-{number}.txt").write_bytes(text)
        for line in text.decode().splitlines()[-60:]:
            say(f"    {line[:LONGEST_LINE]}")


def main() -> int:
    """Return 1 if a rule was broken, 2 for wrong usage, else 0."""
    options = _options()
    for name in options.only:
        if name not in PROPERTIES:
            sys.stderr.write(f"no kind of input is called {name!r}: {', '.join(PROPERTIES)}\n")
            return 2
    say(f"seeds from {options.seed}, {options.minutes:g} min, {options.jobs} at a time")
    run = Run(options)
    workers = [threading.Thread(target=run.work) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for name, count in run.tried.items():
        say(f"{count:8d} examples of {name}")
    last = options.seed + run.tried.total() // EXAMPLES - 1
    say(
        f"seeds {options.seed} to {last}: "
        f"{run.tried.total()} examples, {len(run.findings)} findings"
    )
    return min(1, len(run.findings))


def say(text: str) -> None:
    """Say a line at once: somebody waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--only", nargs="*", default=[], metavar="KIND", help=", ".join(PROPERTIES))
    parser.add_argument("--out", default="out/fuzz", help="where findings are kept")
    return parser.parse_args()


def _turn(name: str, number: int) -> Finding | None:
    """Return what was found of a kind with a seed, in a process that may die."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_in_a_process, args=(name, number, theirs))
    process.start()
    theirs.close()
    found: Finding | None = Finding(f"no answer for {HANGS:.0f} s", "")
    if ours.poll(HANGS):
        try:
            found = ours.recv()
        except EOFError:
            process.join()
            found = Finding(f"the process died: exit {process.exitcode}", "")
    process.kill()
    process.join()
    return found


def _in_a_process(name: str, number: int, answer: Connection) -> None:
    warnings.simplefilter("ignore", HypothesisWarning)
    logging.disable(logging.CRITICAL)  # what is told of each example is nobody's news
    found = None
    try:
        try_examples(PROPERTIES[name], EXAMPLES, number)
    except BaseException as error:  # whatever it is, it is a finding
        found = Finding(_place(error), "".join(traceback.format_exception(error)))
    answer.send(found)


def _place(error: BaseException) -> str:
    """Return what was raised and where, in the last of our own lines that it went through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    ours = [
        f"{frame.filename.removeprefix(ROOT).lstrip('/')}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(ROOT) and "/site-packages/" not in frame.filename
    ]
    said = " ".join(str(error).split())[:120]
    return f"{type(error).__name__} at {ours[-1] if ours else '?'}: {said}"


if __name__ == "__main__":
    sys.exit(main())
