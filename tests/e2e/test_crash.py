"""Killed, or with a disk that fails, a verb ends as if nothing had been: a few of many trials."""

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_verbs_that_are_hit_go_on_as_if_nothing_had_been() -> None:
    """`make crash` tries hundreds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--kills", "8", "--faults", "1",
         "--verbs", "discover", "generate", "merge", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=10 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "seed 1: 20 trials, 0 with a difference"
