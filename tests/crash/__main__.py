"""Kill every verb at random moments, fill and break its disk: `python -m tests.crash --kills 200`.

Afterwards the same command must end as if nothing had been: the same files, nothing left over,
nobody stuck. `--table FILE` writes what was tried as the table of docs/reliability.md.
"""

import argparse
import importlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.server import configure, prefect_api
from tests.crash import faults
from tests.crash.faults import Fault, Kind
from tests.crash.trials import Bench, try_fault, try_kill, try_two
from tests.crash.verbs import VERBS

WORDS = {
    Kind.KILL: "killed at a change",
    Kind.FULL_DISK: "full disk",
    Kind.BAD_DISK: "failing disk",
    Kind.READ_ONLY: "read-only disk",
}
MODULES = (
    "diffusers",
    "mlflow",
    "prefect",
    "flows.batch",
    "flows.build_graph",
    "flows.cli",
    "flows.discover",
    "flows.evaluate",
    "flows.generate",
    "flows.merge",
    "flows.refresh",
    "flows.train_planner",
)
BEGIN, END = "<!-- crash table -->", "<!-- end of crash table -->"


def main() -> int:
    """Return 1 if anything was wrong, else 0."""
    options = _options()
    faults.reexecute("tests.crash")
    folder = Path(tempfile.mkdtemp(prefix="diffgraph-crash-"))
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
        for place, trial in enumerate(trials, 1):
            found = trial.run()
            tried[trial.verb][trial.kind] += 1
            wrong[trial.verb] += bool(found)
            said = "; ".join(found) or "the same"
            say(
                f"{place}/{len(trials)} {trial.verb}, {trial.kind} {trial.where}: {said}",
            )
    say(f"seed {options.seed}: {len(trials)} trials, {wrong.total()} with a difference")
    if options.table:
        _write_table(options.table, tried, wrong)
    return min(1, wrong.total())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared between the verbs")
    parser.add_argument("--faults", type=int, default=6, help="of the disk, a verb and kind")
    parser.add_argument("--verbs", nargs="*", default=[])
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


def _trials(bench: "Bench", names: Sequence[str], options: argparse.Namespace) -> list[Trial]:
    """Return all trials, those of the verbs by turns."""
    generator = random.Random(options.seed)
    found = []
    for number in range(options.kills):
        name = names[number % len(names)]
        if number // len(names) % 3 == 2:
            found.append(_by_the_clock(bench, name, generator))
        else:
            found.append(_at_a_change(bench, name, Kind.KILL, generator))
    for name in names:
        for kind in (Kind.FULL_DISK, Kind.BAD_DISK, Kind.READ_ONLY):
            found += [_at_a_change(bench, name, kind, generator) for _ in range(options.faults)]
        verb = VERBS[name]
        found.append(Trial(name, "two at once", "", partial(try_two, bench, verb)))
    return found


def _by_the_clock(bench: "Bench", name: str, generator: random.Random) -> Trial:
    seconds = generator.uniform(0, bench.seconds[name])
    run = partial(try_kill, bench, VERBS[name], seconds)
    return Trial(name, "killed by the clock", f"after {seconds:.3f} s", run)


def _at_a_change(bench: "Bench", name: str, kind: Kind, generator: random.Random) -> Trial:
    at = generator.randint(1, max(1, bench.changes[name]))
    run = partial(try_fault, bench, VERBS[name], Fault(kind, at))
    return Trial(name, WORDS[kind], f"at change {at} of {bench.changes[name]}", run)


def _write_table(path: Path, tried: Mapping[str, Counter[str]], wrong: Mapping[str, int]) -> None:
    """Write what was tried between the marks of a document."""
    kinds = [*WORDS.values(), "killed by the clock", "two at once"]
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
