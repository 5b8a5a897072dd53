"""What is left when a verb is hit, and does the same command then end as if nothing had been?"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.crash import faults
from tests.crash.contents import contents, differences
from tests.crash.faults import Fault, Kind
from tests.crash.verbs import VERBS, Places, Verb, run, write_given

HANGS = 600.0  # seconds after which a verb is stuck: the machine may be busy


class Ended(NamedTuple):
    """How a process of a verb ended."""

    code: int  # negative: the signal that killed it
    changes: int
    seconds: float
    told: str
    """What it said on both outputs."""


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
        ended = self.run(verb, tree, None)
        if ended.code:
            raise SystemExit(f"{verb.name} fails undisturbed (exit {ended.code}):\n{ended.told}")
        self.whole[verb.name] = contents(tree)
        self.changes[verb.name], self.seconds[verb.name] = ended.changes, ended.seconds
        return tree

    def run(self, verb: Verb, tree: Path, fault: Fault | None, kill_after: float = 0.0) -> Ended:
        """Run a verb in a process of its own, which is hit at a change, or after some seconds."""
        places = Places(self.given, tree / "home", tree / "out")
        begun = time.monotonic()
        with tempfile.TemporaryFile() as told:
            read, write = os.pipe()
            child = os.fork()
            if not child:
                _be_a_verb(verb, places, tree, fault, told.fileno(), write)
            os.close(write)
            code = _wait(child, kill_after)
            count = os.read(read, 64)
            os.close(read)
            told.seek(0)
            text = told.read().decode(errors="replace")
        return Ended(code, int(count or 0), time.monotonic() - begun, text)

    def start(self, verb: Verb, name: str) -> Path:
        """Return a fresh tree as the verb finds it."""
        tree = self.folder / "trials" / f"{verb.name}-{name}"
        shutil.rmtree(tree, ignore_errors=True)
        return Path(shutil.copytree(self.starts[verb.name], tree))


def try_fault(bench: Bench, verb: Verb, fault: Fault) -> list[str]:
    """Hit a verb at a change, then run it again; return what was wrong, nothing if all is well."""
    tree = bench.start(verb, f"{fault.kind.name}-{fault.at}")
    hit = bench.run(verb, tree, fault)
    wrong = _judge_end(fault, hit)
    return wrong + _go_on(bench, verb, tree)


def try_kill(bench: Bench, verb: Verb, seconds: float) -> list[str]:
    """Kill a verb after some seconds, wherever it is; as `try_fault`."""
    tree = bench.start(verb, f"after-{seconds:.3f}")
    bench.run(verb, tree, None, kill_after=seconds)
    return _go_on(bench, verb, tree)


def try_two(bench: Bench, verb: Verb) -> list[str]:
    """Start a verb twice at once on one home; both end well, or one says that it is busy."""
    tree = bench.start(verb, "twice")
    places = Places(bench.given, tree / "home", tree / "out")
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as two:
        children = []
        for told in (one, two):
            child = os.fork()
            if not child:
                _be_a_verb(
                    verb, places, tree, None, told.fileno(), os.open(os.devnull, os.O_WRONLY)
                )
            children.append(child)
        codes = [_wait(child) for child in children]
        wrong = []
        for code, told in zip(codes, (one, two), strict=True):
            told.seek(0)
            text = told.read().decode(errors="replace")
            if code not in (0, 1) or "Traceback" in text:
                wrong.append(f"one of two ended with {code}: {_last(text)}")
        if all(codes):
            wrong.append("neither of two came to its end")
    return wrong + _go_on(bench, verb, tree)


def _go_on(bench: Bench, verb: Verb, tree: Path) -> list[str]:
    again = bench.run(verb, tree, None)
    if again.code:
        return [f"the same command then ends with {again.code}: {_last(again.told)}"]
    wrong = differences(bench.whole[verb.name], contents(tree))
    if not wrong:
        shutil.rmtree(tree)
    return wrong


def _judge_end(fault: Fault, hit: Ended) -> list[str]:
    """Return what is wrong with how a verb ended that was hit."""
    if fault.kind is Kind.KILL:
        return []
    if "Traceback" in hit.told:
        return [f"a traceback: {_last(hit.told)}"]
    if hit.code not in (0, 1):  # what is not needed may fail without harm
        return [f"ended with {hit.code}: {_last(hit.told)}"]
    return []


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _be_a_verb(
    verb: Verb, places: Places, tree: Path, fault: Fault | None, told: int, count: int
) -> None:
    """Become a process that runs a verb; never return."""
    code = 70
    try:
        os.setsid()
        os.dup2(told, 1)
        os.dup2(told, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        faults.arm(tree, fault)
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


def _wait(child: int, kill_after: float = 0.0) -> int:
    """Return how a child ended; kill it after some seconds, if that is asked for."""
    deadline = time.monotonic() + (kill_after or HANGS)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
