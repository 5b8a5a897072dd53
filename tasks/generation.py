"""Drawing files of prompts: a task is a shard of rows, finished when its table is there."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from pydantic import BaseModel

from tasks.overrides import NO_OVERRIDES, Overrides
from tasks.policies import LOCAL
from tasks.progress import report
from tasks.studio import Studio

TABLE = "results.parquet"
PARTS = "parts"


class Row(BaseModel, frozen=True):
    """A prompt of the file."""

    id: str
    prompt: str
    seed: int


class BatchShard(BaseModel, frozen=True):
    """Rows that one worker draws, and all that their images depend on."""

    rows: tuple[Row, ...]
    family: str
    method: str
    agent: str
    snapshot: str
    planner: str
    overrides: Overrides = NO_OVERRIDES

    @property
    def id(self) -> str:
        """Content hash: equal shards give equal tables."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:24]


class Drawn(BaseModel, frozen=True):
    """The table of a shard."""

    part: Path
    images: int
    failed: int


@task(**LOCAL, task_run_name="draw {shard.id}")
def draw_shard(shard: BatchShard, out: Path, home: Path, device: str) -> Drawn:
    """Draw a shard's prompts, score them and write their table; one that is there is kept."""
    import pyarrow.parquet as pq

    part = out / PARTS / f"{shard.id}.parquet"
    if not part.is_file():
        studio = Studio(home, shard.family, device, shard.agent, overrides=shard.overrides)
        rows = []
        for done, row in enumerate(shard.rows, 1):
            rows.append(_draw(row, shard.method, studio, out))
            report("draw", done, len(shard.rows), row.prompt[:40])
        _write(rows, part)
    failed = sum(error != "" for error in pq.read_table(part, columns=["error"])[0].to_pylist())
    return Drawn(part=part, images=len(shard.rows) - failed, failed=failed)


@task(**LOCAL)
def collect(parts: Sequence[Path], out: Path) -> Path:
    """Write the tables of all shards as one; return its path."""
    import pyarrow.parquet as pq

    from diffgraph.artifacts import new_file

    target = out / TABLE
    with new_file(target) as file, pq.ParquetWriter(file, _schema(), compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    return target


def _draw(row: Row, method: str, studio: Studio, out: Path) -> dict[str, Any]:
    """Return a row of the table; a prompt that cannot be drawn says why in it."""
    from diffgraph.errors import ExpertError, InputError, PlanError
    from diffgraph.generation import save_png
    from diffgraph.scoring import score

    told: dict[str, Any] = {"id": row.id, "prompt": row.prompt, "seed": row.seed, "error": ""}
    try:
        decision = studio.decide(row.prompt, method)
        images = studio.renderer.render(decision.plan, [row.prompt], [row.seed])
    except (InputError, PlanError, ExpertError) as error:
        return {**told, "error": f"{type(error).__name__}: {error}"}
    # a prompt is never part of a path
    name = hashlib.sha256(json.dumps([decision.plan.id, row.prompt, row.seed]).encode())
    file = Path("images") / f"{name.hexdigest()[:24]}.png"
    save_png(out / file, images[0], decision.plan, row.prompt, row.seed)
    values = score(studio.scorers, images, [row.prompt])
    return {
        **told,
        "plan_id": decision.plan.id,
        "plan": decision.plan.model_dump_json(),
        "file": str(file),
        **dict(zip(studio.scorers, values[0].tolist(), strict=True)),
        "reward": float(studio.snapshot.reward.of(values)[0]),
    }


def _schema() -> Any:
    import pyarrow as pa

    from diffgraph.scoring.scorer import SCORE_NAMES

    texts = [pa.field(name, pa.string()) for name in ("plan_id", "plan", "file", "error")]
    scores = [pa.field(name, pa.float64()) for name in (*SCORE_NAMES, "reward")]
    return pa.schema(
        [("id", pa.string()), ("prompt", pa.string()), ("seed", pa.int64()), *texts, *scores]
    )


def _write(rows: Sequence[dict[str, Any]], part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diffgraph.artifacts import new_file

    with new_file(part) as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema()), file, compression="zstd")
