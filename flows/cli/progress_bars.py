"""Shows progress on stderr: bars on a terminal, lines in a log."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from diffgraph.printable import printable
from diffgraph.progress import listening

SECONDS_BETWEEN_LINES = 5.0


class ProgressBars:
    """One bar a stage."""

    def __init__(self, console: Console, transient: bool = False):
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=transient,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed would not go where it shall
        )
        self.stages: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None, note: str) -> None:
        """Move the stage's bar."""
        if stage not in self.stages:
            self.stages[stage] = self.progress.add_task(stage, total=total, note="")
        self.progress.update(self.stages[stage], completed=done, total=total, note=printable(note))


class ProgressLines:
    """A line a stage every few seconds, and one at its end; at its start if it says so with a 0.

    A stage may begin again, with another file, say: it has an end for each. Reports may come from
    several threads, and the last ones in any order.
    """

    def __init__(self, console: Console):
        self.console = console
        self.started: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.ended: dict[str, tuple[int, str]] = {}  # stage -> its total and its note at its end
        self.turn = threading.Lock()

    def __call__(self, stage: str, done: int, total: int | None, note: str) -> None:
        """Print a line if the last one is old enough, and never an end twice."""
        with self.turn:
            self._print(stage, done, total, note)

    def _print(self, stage: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        new = stage not in self.started
        start = self.started.setdefault(stage, now)
        last = self.last.setdefault(stage, now)
        if total is not None and done >= total:
            if self.ended.get(stage) == (total, note):
                return
            self.ended[stage] = total, note
        elif not (new and done == 0) and now - last < SECONDS_BETWEEN_LINES:
            return
        self.last[stage] = now
        of = f"/{total}" if total is not None else ""
        text = f"{stage}: {done}{of}, {now - start:.0f} s {printable(note)}".rstrip()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown(console: Console | None = None, only_bars: bool = False) -> Iterator[None]:
    """Show what is reported during the block.

    Args:
        console: where; standard error by default.
        only_bars: show bars on a terminal, which go when the block ends, and no lines in a log.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        bars = ProgressBars(console, only_bars)
        with bars.progress, listening(bars):
            yield
    elif only_bars:
        yield
    else:
        with listening(ProgressLines(console)):
            yield
