"""What do the prompts of a file look like? Images and a table, in shards that are drawn once."""

import logging
from collections.abc import Iterator
from pathlib import Path

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.evaluation.prompt_sets import TOLD, read_prompts
from diffgraph.locks import exclusive
from diffgraph.results import Result, Rows
from diffgraph.session import Session, check_method
from diffgraph.session.batches import (
    PARTS,
    TABLE,
    BatchIdentity,
    BatchShard,
    PromptRow,
    ids_of,
    known_rows,
)
from diffgraph.settings import Settings
from diffgraph.targets import demand_folder
from flows.serving.parameter_types import Limit, Name, Place, Seed
from flows.serving.publishing import publish
from flows.serving.runners import results_of, runner_for
from flows.serving.watched import flow
from tasks.generation import collect, draw_shard

log = logging.getLogger(__name__)

ROWS_A_SHARD = 25


class BatchResult(Result):
    """What was drawn."""

    table: Path
    images: int
    failed: int
    """Prompts that nothing could be drawn for; their rows say why."""
    failed_rows: tuple[str, ...]
    """The first of them, each with its reason."""
    broken: int
    """Rows of the file that hold no prompt."""
    broken_rows: tuple[str, ...]
    """The first of them, each with its reason."""
    snapshot: str
    planner: str
    """The graph and the planner that drew all of them."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield the counts, and the first prompts and rows that came to nothing."""
        yield f"{self.table}: {self.images} images, {self.failed} prompts that cannot be drawn"
        yield f"drawn by snapshot {self.snapshot} and planner {self.planner}"
        yield from self.failed_rows
        if self.broken:
            yield f"{self.broken} broken rows: {'; '.join(self.broken_rows)}"


@flow(name="batch-generate", task_runner=runner_for(Settings()))
def batch(  # noqa: PLR0913 (the parameters of a deployment are its form)
    prompts: Place,
    out: Place,
    column: Name = "prompt",
    limit: Limit | None = None,
    method: Name = "diffgraph",
    seed: Seed = 0,
    family: Name | None = None,
    force: bool = False,
) -> BatchResult:
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
    session = Session.of(settings, family)
    with exclusive(out / PARTS, "batch"):
        ids = ids_of(out, session)
        _tell_what_draws(out, ids, session)
        whole = BatchShard(
            rows=tuple(PromptRow(id=one.id, prompt=one.text, seed=seed) for one in found.prompts),
            family=family,
            method=method,
            agent=settings.agent,
            ids=ids,
            overrides=session.overrides,
        )
        whole.session(settings.home, settings.device)  # what has gone is told before all else
        _draw(whole, out, settings)
        known = known_rows(out, ids.scores)
        drawn = [{"id": row.id, **known[whole.key(row)]} for row in whole.rows]
        table = collect(drawn, out, ids.scores)
    failed = [f"{row['id']}: {row['error']}" for row in drawn if row["error"]]
    told = BatchResult(
        table=table,
        images=len(drawn) - len(failed),
        failed=len(failed),
        failed_rows=tuple(failed[:TOLD]),
        broken=len(found.broken),
        broken_rows=tuple(f"row {row.row}: {row.reason}" for row in found.broken[:TOLD]),
        snapshot=ids.snapshot,
        planner=ids.planner,
    )
    publish(told, key="batch-results")
    return told


def _draw(whole: BatchShard, out: Path, settings: Settings) -> None:
    """Draw the rows that are not drawn yet, each once however often it is in the file."""
    drawn = {key for key, row in known_rows(out, whole.ids.scores).items() if not row["error"]}
    left = {key: row for row in whole.rows if (key := whole.key(row)) not in drawn}
    shards = [
        whole.model_copy(update={"rows": tuple(list(left.values())[start : start + ROWS_A_SHARD])})
        for start in range(0, len(left), ROWS_A_SHARD)
    ]
    given = (out, settings.home, settings.device)
    for _ in results_of(draw_shard, shards, "batch", lambda shard: len(shard.rows), *given):
        pass  # its rows are in its table


def _tell_what_draws(out: Path, ids: BatchIdentity, session: Session) -> None:
    """Say so if a folder was begun with another graph or planner than is in force now."""
    try:
        now = (session.graph.id, session.planner_id)
    except (SnapshotError, MissingInput) as error:
        log.warning("%s", error)
        return
    if now != (ids.snapshot, ids.planner):
        log.warning(
            "%s goes on with snapshot %s and planner %s, as it began; %s and %s, which are in "
            "force now, draw into another folder",
            out, ids.snapshot, ids.planner, *now,
        )  # fmt: skip
