"""What does reading something hostile cost? Measured in a process that has done nothing else."""

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from diffgraph.errors import DiffgraphError
from tests.hostile.fuzz.bounds import MEGABYTES, SECONDS, demand_a_line, reset_peak, resident

Input = TypeVar("Input")


class Cost(NamedTuple):
    """Of one input."""

    megabytes: float  # resident at the peak, above what was before
    seconds: float  # of processor time
    said: str  # the error, or what came out

    @property
    def is_fair(self) -> bool:
        """Whether any input may cost as much."""
        return self.megabytes <= MEGABYTES and self.seconds <= SECONDS


def costs(
    read: Callable[[Input], object], harmless: Sequence[Input], hostile: Sequence[Input]
) -> Sequence[Cost]:
    """Read what is harmless, so that all is loaded, then each of the others; return their costs.

    Args:
        read: a function of a module; what it raises is an error of ours, or the process dies of it.
        harmless: what it takes well: all kinds.
        hostile: what it takes.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    child = spawning.Process(target=_measure, args=(there, read, harmless, hostile))
    child.start()
    there.close()
    try:
        return [here.recv() for _ in hostile]
    finally:
        here.close()
        child.join()


def _measure(
    told: Connection,
    read: Callable[[Input], object],
    harmless: Sequence[Input],
    hostile: Sequence[Input],
) -> None:
    for each in harmless:
        read(each)
    for each in hostile:
        ctypes.CDLL(None).malloc_trim(0)  # else it would take what was freed, and not show
        before, begun = reset_peak(), time.process_time()
        try:
            said = str(read(each))
        except DiffgraphError as error:
            demand_a_line(error)
            said = str(error)
        seconds = time.process_time() - begun
        told.send(Cost((resident("VmHWM") - (before or 0)) / 1024, seconds, said))
