"""Killed, or with a disk that fails, a verb ends as if nothing had been: a few of many trials."""

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_a_verb_that_is_hit_goes_on_as_if_nothing_had_been() -> None:
    """The one that needs no other; `make crash` tries all, hundreds of times."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--kills", "2", "--faults", "1",
         "--verbs", "discover", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=10 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "seed 1: 8 trials, 0 with a difference"
