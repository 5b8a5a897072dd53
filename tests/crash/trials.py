"""What is left when a verb is hit, and does the same command then end as if nothing had been?"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from tests.crash import faults
from tests.crash.contents import contents, differences
from tests.crash.faults import Fault, Kind
from tests.crash.reading import troubles
from tests.crash.verbs import VERBS, Places, Verb, environment_of, run, write_given

HANGS = 600.0  # seconds after which a verb is stuck: the machine may be busy
SECONDS_BETWEEN_LOOKS = 0.5


class Whom(Enum):
    """Whom a signal is for: the verb, or a process it started, by a word of its command."""

    VERB = ""
    WORKER = "multiprocessing.spawn"
    SERVER = "flows.serving.server"


class Hit(NamedTuple):
    """What happens to a verb: nothing, a fault at a change, or a signal after some seconds."""

    fault: Fault | None = None
    after: float | None = None
    number: signal.Signals = signal.SIGKILL
    whom: Whom = Whom.VERB


UNDISTURBED = Hit()


class Ended(NamedTuple):
    """How a process of a verb ended."""

    code: int  # negative: the signal that killed it
    changes: int
    seconds: float
    told: str
    """What it said on both outputs."""
    met: Sequence[str]
    """What readers of its home met that is neither whole nor absent."""


@dataclass
class Bench:
    """Undisturbed runs of all verbs, which others are held against."""

    folder: Path
    starts: dict[str, Path] = field(default_factory=dict)  # a verb -> the tree it begins with
    whole: dict[str, Mapping[str, str]] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def given(self) -> Path:
        """Where what all verbs are given lies."""
        return self.folder / "given"

    @classmethod
    def of(cls, folder: Path, names: list[str]) -> "Bench":
        """Run verbs and all they need once, undisturbed."""
        bench = cls(folder)
        write_given(bench.given)
        for name in names:
            bench._prepare(VERBS[name])
        return bench

    def _prepare(self, verb: Verb) -> Path:
        """Run a verb undisturbed, if it has not been; return the tree that it left."""
        tree = self.folder / "whole" / verb.name
        if verb.name in self.whole:
            return tree
        start = self._prepare(VERBS[verb.after]) if verb.after else None
        begin = self.folder / "starts" / verb.name
        begin.mkdir(parents=True)
        if start is not None:
            shutil.copytree(start, begin, dirs_exist_ok=True)
        self.starts[verb.name] = begin
        shutil.copytree(begin, tree)
        ended = self.run(verb, tree)
        if ended.code:
            raise SystemExit(f"{verb.name} fails undisturbed (exit {ended.code}):\n{ended.told}")
        self.whole[verb.name] = contents(tree)
        self.changes[verb.name], self.seconds[verb.name] = ended.changes, ended.seconds
        return tree

    def run(self, verb: Verb, tree: Path, hit: Hit = UNDISTURBED) -> Ended:
        """Run a verb in a process of its own, which something happens to; look at its home."""
        places = Places(self.given, tree / "home", tree / "out")
        begun = time.monotonic()
        with tempfile.TemporaryFile() as told:
            read, write = os.pipe()
            child = os.fork()
            if not child:
                _be_a_verb(verb, places, tree, hit, told.fileno(), write)
            os.close(write)
            code, met = _wait(child, hit, places.home)
            count = os.read(read, 64)
            os.close(read)
            told.seek(0)
            text = told.read().decode(errors="replace")
        with _words(tree).open("a") as kept:
            kept.write(f"{verb.name}, {hit}: ended with {code}\n{text}\n")
        return Ended(code, int(count or 0), time.monotonic() - begun, text, met)

    def start(self, verb: Verb) -> Path:
        """Return a fresh tree as the verb finds it."""
        place = self.folder / "trials"
        place.mkdir(exist_ok=True)
        tree = Path(tempfile.mkdtemp(prefix=f"{verb.name}-", dir=place))
        return Path(shutil.copytree(self.starts[verb.name], tree, dirs_exist_ok=True))


def try_hit(bench: Bench, verb: Verb, hit: Hit) -> list[str]:
    """Let something happen to a verb, then run it again; return what was wrong, if anything."""
    tree = bench.start(verb)
    ended = bench.run(verb, tree, hit)
    wrong = [*_judge_end(hit, ended), *ended.met]
    if hit.whom is Whom.WORKER and not wrong:  # the verb itself must have made up for it
        wrong = _compare(bench, verb, tree)
    else:
        wrong += _go_on(bench, verb, tree)
    return _cleared(tree, wrong)


def try_two(bench: Bench, verb: Verb) -> list[str]:
    """Start a verb twice at once on one home; both end well, or one says that it is busy."""
    tree = bench.start(verb)
    places = Places(bench.given, tree / "home", tree / "out")
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two:
        children = []
        for told in (one, two):
            child = os.fork()
            if not child:
                _be_a_verb(
                    verb, places, tree, UNDISTURBED, told.fileno(), os.open(os.devnull, os.O_WRONLY)
                )
            children.append(child)
        ends = [_wait(child, UNDISTURBED, places.home) for child in children]
        codes = [code for code, _ in ends]
        wrong = [line for _, met in ends for line in met]
        for code, told in zip(codes, (one, two), strict=True):
            told.seek(0)
            text = told.read().decode(errors="replace")
            if code not in (0, 1) or "Traceback" in text:
                wrong.append(f"one of two ended with {code}: {_last(text)}")
        if all(codes):
            wrong.append("neither of two came to its end")
    return _cleared(tree, wrong + _go_on(bench, verb, tree))


def _go_on(bench: Bench, verb: Verb, tree: Path) -> list[str]:
    again = bench.run(verb, tree)
    if again.code:
        return [f"the same command then ends with {again.code}: {_last(again.told)}"]
    return _compare(bench, verb, tree)


def _compare(bench: Bench, verb: Verb, tree: Path) -> list[str]:
    return differences(bench.whole[verb.name], contents(tree))


def _cleared(tree: Path, wrong: list[str]) -> list[str]:
    """Return what was wrong; the tree and its words stay only to find out why."""
    if not wrong:
        shutil.rmtree(tree)
        _words(tree).unlink(missing_ok=True)
    return wrong


def _words(tree: Path) -> Path:
    """Return where the verbs' words stay that ran on a tree, as long as the tree does."""
    return tree.with_name(f"{tree.name}.log")


def _judge_end(hit: Hit, ended: Ended) -> list[str]:
    """Return what is wrong with how a verb ended that was hit."""
    is_killed = ended.code == -signal.SIGKILL
    if is_killed and (hit.fault is None or hit.fault.kind is Kind.KILL):
        return [] if hit.whom is Whom.VERB else ["it was not to be killed"]
    if "Traceback" in ended.told:
        return [f"a traceback: {_last(ended.told)}"]
    allowed = {0, 1}  # what is not needed may fail without harm
    if hit.number == signal.SIGTERM:
        # before it listens, the signal itself ends it; a shell shows the same number
        allowed = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
    if hit.whom is Whom.WORKER:
        allowed = {0}
    if ended.code not in allowed:
        return [f"ended with {ended.code}: {_last(ended.told)}"]
    return []


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _be_a_verb(verb: Verb, places: Places, tree: Path, hit: Hit, told: int, count: int) -> None:
    """Become a process that runs a verb; never return."""
    code = 70
    try:
        os.setsid()
        os.dup2(told, 1)
        os.dup2(told, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # after a fork torch makes its pool anew at its first use, which two threads must not be
        torch.set_num_threads(1)
        environment_of(places, hit.whom is Whom.SERVER, hit.whom is Whom.WORKER)
        faults.arm(tree, hit.fault)
        try:
            run(verb, places)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(count, str(faults.changes()).encode())
        os._exit(code)


def _wait(child: int, hit: Hit, home: Path) -> tuple[int, list[str]]:
    """Return how a child ended, and what readers met; hit it after some seconds, if asked to."""
    begun = time.monotonic()
    is_hit, looked, met = hit.after is None, begun, set[str]()
    while (now := time.monotonic()) - begun < HANGS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            met.update(troubles(home))
            return os.waitstatus_to_exitcode(status), sorted(met)
        if not is_hit and now - begun > (hit.after or 0):
            is_hit = _strike(child, hit)
        if now - looked > SECONDS_BETWEEN_LOOKS:
            met.update(troubles(home))
            looked = time.monotonic()
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGABRT, [*sorted(met), f"it was stuck for {HANGS:.0f} s"]


def _strike(child: int, hit: Hit) -> bool:
    """Send the signal to whom it is for; return whether there was somebody."""
    if hit.whom is Whom.VERB:
        if hit.number == signal.SIGKILL:
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, hit.number)
        return True
    found = [
        process
        for process in psutil.Process(child).children(recursive=True)
        if hit.whom.value in " ".join(process.cmdline())
    ]
    for process in found[:1]:
        process.send_signal(hit.number)
    return bool(found)
