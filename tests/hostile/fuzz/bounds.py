"""How much may a stranger's input cost? Processor time and memory, measured where it is read."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS = 5.0
MEGABYTES = 300
PATIENCE = 12.0
"""Times the seconds that may pass on the clock: the machine may be busy with something else."""


LONGEST = 1_000
"""Characters that an error may say."""


class TooDear(BaseException):
    """An input took more time or memory than any may. No `except Exception` of ours catches it."""


@contextmanager
def bounded(seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Iterator[None]:
    """Raise `TooDear` if the block takes more.

    Args:
        seconds: of this process's processor time; on the clock `PATIENCE` times as much.
        megabytes: of resident memory at its peak, above what is held when the block begins.
    """
    clocks = ((signal.ITIMER_PROF, seconds), (signal.ITIMER_REAL, seconds * PATIENCE))
    before = {number: signal.signal(number, _stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    idle = reset_peak()
    for clock, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for clock, _ in clocks:
            signal.setitimer(clock, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if idle is not None and (grown := resident("VmHWM") - idle) > megabytes << 10:
        raise TooDear(f"{grown >> 10} MB of memory, {megabytes} are allowed")


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooDear(f"took too long: {signal.Signals(number).name}")


def reset_peak() -> int | None:
    """Let the kernel forget the peak so far; return the resident KiB, None where it cannot tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system than Linux: the time is still bounded
        return None
    return resident("VmRSS")


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(field)


def demand_a_line(error: Exception) -> None:
    """Raise unless an error tells a person what is wrong: in a line that is read, and harmless."""
    said = str(error)
    assert 0 < len(said) <= LONGEST, f"a message of {len(said)} characters"
    assert "\n" not in said
    assert said.isprintable(), ascii(said)
