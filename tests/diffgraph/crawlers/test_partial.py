import os
import time
from pathlib import Path

from diffgraph.crawlers.partial import STALE_SECONDS, sweep


def test_what_is_stale_goes_and_what_is_fresh_stays(tmp_path: Path) -> None:
    old, fresh = tmp_path / "old.part", tmp_path / "fresh.part"
    for path in (old, fresh):
        path.write_bytes(b"half")
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fresh.part"]


def test_a_file_that_another_run_finishes_meanwhile_is_nothing_to_fail_for(tmp_path: Path) -> None:
    listed = tmp_path / "gone.part"
    listed.symlink_to(tmp_path / "renamed meanwhile")  # it is listed, and looking at it fails
    sweep(tmp_path)
