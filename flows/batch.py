"""What do the prompts of a file look like? Images and a table, in shards that are drawn once."""

from collections.abc import Iterator
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.futures import as_completed

from diffgraph.artifacts import new_file
from diffgraph.evaluation.prompt_sets import PromptSet, read_prompts
from diffgraph.settings import Settings
from flows.printing import Result, Rows
from flows.runners import runner_for
from flows.targets import demand_folder
from tasks.generation import PARTS, TABLE, BatchShard, Row, collect, draw_shard
from tasks.progress import report
from tasks.studio import Studio, check_method

ROWS_A_SHARD = 25


class Batch(Result):
    """What was drawn."""

    table: Path
    images: int
    failed: int
    """Prompts that nothing could be drawn for; their rows say why."""
    broken: int
    """Rows of the file that hold no prompt."""
    broken_rows: tuple[str, ...]
    """The first of them, each with its reason."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield the counts and the first broken rows."""
        yield f"{self.table}: {self.images} images, {self.failed} prompts that cannot be drawn"
        if self.broken:
            yield f"{self.broken} broken rows: {'; '.join(self.broken_rows)}"


@flow(name="batch-generate", task_runner=runner_for(Settings()))
def batch(  # noqa: PLR0913 (the parameters of a deployment are its form)
    prompts: Path,
    out: Path,
    column: str = "prompt",
    limit: int | None = None,
    method: str = "diffgraph",
    seed: int = 0,
    family: str | None = None,
    force: bool = False,
) -> Batch:
    """Draw a file of prompts into a folder of images and `results.parquet`.

    Args:
        prompts: a .parquet, .jsonl, .csv or .txt file.
        out: the folder; a second run goes on where the first one stopped.
        column: where the prompts are, in a file with columns.
        limit: draw so many at most.
        method: how experts are merged.
        seed: of the first noise, the same for every prompt.
        family: the model family; the setting if unset.
        force: write over a table that is there and that no batch wrote.
    """
    settings = Settings()
    family = family or settings.family
    check_method(method)
    demand_folder(out, settings, force, (TABLE,), PARTS, read=prompts)
    found = read_prompts(prompts, column, limit, family)
    with new_file(out / ".writable"):
        pass  # a folder that cannot be written is told before anything is drawn
    (out / ".writable").unlink(missing_ok=True)
    shards = _shards(found, seed, method, settings, family)
    futures = [draw_shard.submit(shard, out, settings.home, settings.device) for shard in shards]
    done = 0
    report("batch", 0, len(found.prompts))
    for future in as_completed(futures):
        drawn = future.result()
        done += drawn.images + drawn.failed
        report("batch", done, len(found.prompts))
    results = [future.result() for future in futures]
    table = collect([drawn.part for drawn in results], out)
    told = Batch(
        table=table,
        images=sum(drawn.images for drawn in results),
        failed=sum(drawn.failed for drawn in results),
        broken=len(found.broken),
        broken_rows=tuple(f"row {row.row}: {row.reason}" for row in found.broken[:5]),
    )
    create_markdown_artifact("\n\n".join(map(str, told.lines())), key="batch-results")
    return told


def _shards(
    found: PromptSet, seed: int, method: str, settings: Settings, family: str
) -> list[BatchShard]:
    studio = Studio.of(settings, family)
    rows = [Row(id=prompt.id, prompt=prompt.text, seed=seed) for prompt in found.prompts]
    return [
        BatchShard(
            rows=tuple(rows[start : start + ROWS_A_SHARD]),
            family=family,
            method=method,
            agent=settings.agent,
            snapshot=studio.snapshot.id,
            planner=studio.planner_id,
            overrides=studio.overrides,
        )
        for start in range(0, len(rows), ROWS_A_SHARD)
    ]
