"""What is finished already? Scores of pictures in Parquet parts, and the pictures that are kept."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.tables import find_table, write_table

FLUSH = 64
"""Scored pictures a part file: the most that a killed run can lose."""


class Job(NamedTuple):
    """A picture, named by what is in it."""

    plan_id: str
    prompt: str
    seed: int


class ScoreStore:
    """The scores of finished pictures; parts are named by what they hold and never change."""

    def __init__(self, folder: Path, identity: str, names: Sequence[str] = SCORE_NAMES) -> None:
        """Open what is there.

        Args:
            folder: where parts and images are kept.
            identity: family, sampler and scorers in writing; another identity sees nothing of this.
            names: the scores, in the order in which they are added.
        """
        name = digest(identity)
        self.parts = folder / "parts" / name
        self.pictures = folder / "images" / name
        self.names = tuple(names)
        columns = [("plan_id", pa.string()), ("prompt", pa.string()), ("seed", pa.int64())]
        columns += [(name, pa.float64()) for name in self.names]
        self.schema = pa.schema(columns, {"identity": identity})
        self._scores: dict[Job, list[float]] = {}
        self._fresh: list[Job] = []
        for part in sorted(self.parts.glob("*.parquet")):
            self._read(part)

    def __contains__(self, job: Job) -> bool:
        return job in self._scores

    def scores(self, job: Job) -> list[float]:
        """Return a picture's scores, in their order."""
        return self._scores[job]

    def image(self, job: Job) -> Path:
        """Return where the picture is kept, if it is; a prompt is never part of a path."""
        return self.pictures / f"{digest(job.plan_id, job.prompt, str(job.seed))}.png"

    def add(self, job: Job, scores: Sequence[float]) -> None:
        """Note a picture's scores; they are on the disk after `flush` or `FLUSH` more."""
        self._scores[job] = list(scores)
        self._fresh.append(job)
        if len(self._fresh) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one part."""
        if not self._fresh:
            return
        rows = [
            {**job._asdict(), **dict(zip(self.names, self._scores[job], strict=True))}
            for job in self._fresh
        ]
        name = digest(*(text for job in self._fresh for text in map(str, job)))
        write_table(self.parts / f"{name}.parquet", pa.Table.from_pylist(rows, self.schema))
        self._fresh.clear()

    def _read(self, part: Path) -> None:
        table = find_table(part, self.schema)
        rows = table.to_pylist() if table is not None else ()
        for row in rows:
            job = Job(row["plan_id"], row["prompt"], row["seed"])
            self._scores[job] = [row[name] for name in self.names]


def digest(*parts: str) -> str:
    """Return a short hash that names these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
