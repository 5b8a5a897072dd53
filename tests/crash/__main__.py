"""Kill every verb at random moments, fill and break its disk: `python -m tests.crash --kills 200`.

Afterwards the same command must end as if nothing had been: the same files, nothing left over,
nobody stuck. `--table FILE` writes what was tried as the table of docs/reliability.md.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from flows.serving.server import configure, prefect_api
from tests.crash import faults
from tests.crash.faults import Fault, Kind
from tests.crash.trials import Bench, Hit, Whom, try_hit, try_two
from tests.crash.verbs import VERBS

AT_A_CHANGE, BY_THE_CLOCK, TWO = "killed at a change", "killed by the clock", "two at once"
SIGTERM, WORKER, SERVER = "SIGTERM", "worker killed", "server killed"
HITS: dict[str, Callable[[int | float], Hit]] = {
    AT_A_CHANGE: lambda at: Hit(Fault(Kind.KILL, int(at))),
    BY_THE_CLOCK: lambda after: Hit(after=after),
    "full disk": lambda at: Hit(Fault(Kind.FULL_DISK, int(at))),
    "failing disk": lambda at: Hit(Fault(Kind.BAD_DISK, int(at))),
    "read-only disk": lambda at: Hit(Fault(Kind.READ_ONLY, int(at))),
    "renames fail": lambda at: Hit(Fault(Kind.NO_RENAMES, int(at))),
    SIGTERM: lambda after: Hit(after=after, number=signal.SIGTERM),
    WORKER: lambda after: Hit(after=after, whom=Whom.WORKER),
    SERVER: lambda after: Hit(after=after, whom=Whom.SERVER),
}
DISK = ("full disk", "failing disk", "read-only disk", "renames fail")
MODULES = (
    "diffusers",
    "mlflow",
    "prefect",
    "flows.batch",
    "flows.build_graph",
    "flows.cli.command",
    "flows.discover",
    "flows.evaluate",
    "flows.cli.generate",
    "flows.cli.merge",
    "flows.refresh",
    "flows.train_planner",
)
BEGIN, END = "<!-- crash table -->", "<!-- end of crash table -->"


def main() -> int:
    """Return 1 if anything was wrong, else 0."""
    options = _options()
    faults.reexecute("tests.crash")
    folder = Path(tempfile.mkdtemp(prefix="diffgraph-crash-"))
    (folder / "server").mkdir()
    configure(folder / "server")  # as the command does, before anything imports Prefect
    _import_all()
    names = options.verbs or list(VERBS)
    say(f"seed {options.seed}, in {folder}")
    with prefect_api(folder / "server"):
        bench = Bench.of(folder, names)
        for name in names:
            say(f"{name}: {bench.changes[name]} changes of files, {bench.seconds[name]:.1f} s")
        trials = _trials(bench, names, options)
        tried = {name: Counter[str]() for name in names}
        wrong: Counter[str] = Counter()
        for done, (trial, found) in enumerate(_outcomes(trials, options.jobs), 1):
            tried[trial.verb][trial.kind] += 1
            wrong[trial.verb] += bool(found)
            said = "; ".join(found) or "the same"
            say(f"{done}/{len(trials)} {trial.verb}, {trial.kind} {trial.where}: {said}")
    say(f"seed {options.seed}: {len(trials)} trials, {wrong.total()} with a difference")
    if options.table:
        _write_table(options.table, tried, wrong)
    return min(1, wrong.total())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared between the verbs")
    parser.add_argument("--faults", type=int, default=2, help="a verb and kind: SIGTERM, disks")
    parser.add_argument("--starts", type=int, default=2, help="kills of a worker, and of a server")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at once")
    parser.add_argument("--verbs", nargs="*", default=[])
    parser.add_argument(
        "--again",
        nargs=2,
        action="append",
        default=[],
        metavar=("KIND", "AT"),
        help=f"nothing but this, on each verb: {', '.join(HITS)}; at a change or second",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--table", type=Path, default=None, help="the document to write it into")
    return parser.parse_args()


def say(text: str) -> None:
    """Say a line at once: somebody waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _import_all() -> None:
    """Import what verbs import, so that the processes of verbs need not."""
    for module in MODULES:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)  # a process that forks must not have threads of torch


@dataclass(frozen=True)
class Trial:
    """Something that happens to a verb."""

    verb: str
    kind: str
    where: str
    run: Callable[[], list[str]]
    """Return what was wrong afterwards."""


def _outcomes(trials: Sequence[Trial], jobs: int) -> Iterator[tuple[Trial, list[str]]]:
    """Yield what was wrong after each trial, as they end; so many are made at once."""
    # each in a process forked from this one, which has imported all
    ended = SimpleQueue[tuple[int, list[str]]](ctx=get_context("fork"))
    waiting, running = deque(range(len(trials))), 0
    while waiting or running:
        while waiting and running < jobs:
            place = waiting.popleft()
            if not os.fork():
                _report(trials[place], place, ended)
            running += 1
        place, found = ended.get()
        os.wait()
        running -= 1
        yield trials[place], found


def _report(trial: Trial, place: int, ended: "SimpleQueue[tuple[int, list[str]]]") -> None:
    """Make a trial and tell its outcome; never return."""
    try:
        found = trial.run()
    except BaseException:
        found = [f"the trial itself failed: {traceback.format_exc()}"]
    ended.put((place, found))
    os._exit(0)


def _trials(bench: Bench, names: Sequence[str], options: argparse.Namespace) -> list[Trial]:
    """Return all trials, mixed."""
    if options.again:
        return [
            _trial_at(bench, name, kind, float(at)) for name in names for kind, at in options.again
        ]
    generator = random.Random(options.seed)
    found = []
    for number in range(options.kills):
        name = names[number % len(names)]
        kind = (AT_A_CHANGE, AT_A_CHANGE, BY_THE_CLOCK)[number // len(names) % 3]
        found.append(_trial(bench, name, kind, generator))
    for name in names:
        for kind in (*DISK, SIGTERM):
            found += [_trial(bench, name, kind, generator) for _ in range(options.faults)]
        found.append(Trial(name, TWO, "", partial(try_two, bench, VERBS[name])))
    if "build" in names:
        for kind in (WORKER, SERVER):
            found += [_trial(bench, "build", kind, generator) for _ in range(options.starts)]
    generator.shuffle(found)  # whatever is wrong shows early
    return found


def _trial(bench: Bench, name: str, kind: str, generator: random.Random) -> Trial:
    at = generator.randint(1, max(1, bench.changes[name]))
    after = generator.uniform(0, bench.seconds[name])
    return _trial_at(bench, name, kind, at if kind in (AT_A_CHANGE, *DISK) else after)


def _trial_at(bench: Bench, name: str, kind: str, at: float) -> Trial:
    hit, where = HITS[kind](at), f"after {at:.3f} s"
    if kind in (AT_A_CHANGE, *DISK):
        where = f"at change {at:.0f} of {bench.changes[name]}"
    return Trial(name, kind, where, partial(try_hit, bench, VERBS[name], hit))


def _write_table(path: Path, tried: Mapping[str, Counter[str]], wrong: Mapping[str, int]) -> None:
    """Write what was tried between the marks of a document."""
    kinds = [*HITS, TWO]
    lines = [f"| verb | {' | '.join(kinds)} | differences |", "|---" * (len(kinds) + 2) + "|"]
    lines += [
        f"| {name} | {' | '.join(str(counts[kind]) for kind in kinds)} | {wrong[name]} |"
        for name, counts in tried.items()
    ]
    head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    table = "\n".join(lines)
    path.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
