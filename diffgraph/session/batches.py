"""How is a file of prompts drawn? In shards of rows, each finished when its table is there.

A row is named by its prompt and by all that draws it, never by where it stands in its file. So rows
are found again wherever they have moved to, and what another graph or planner drew is not.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from diffgraph.artifacts import set_aside, write_text
from diffgraph.errors import MissingInput
from diffgraph.progress import report
from diffgraph.scoring import SCORE_NAMES, can_score
from diffgraph.session import Session
from diffgraph.session.overrides import NO_OVERRIDES, Overrides
from diffgraph.session.planners import planner_folder, planner_name
from diffgraph.tables import find_table, write_table

log = logging.getLogger(__name__)

TABLE, PARTS, BEGUN = "results.parquet", "parts", "batch.json"


class BatchIdentity(BaseModel, frozen=True):
    """What a folder of images is drawn by, from its first image to its last."""

    snapshot: str
    planner: str
    """By its content."""
    planner_name: str
    """By which a home finds it."""
    scorers: str
    scores: tuple[str, ...] = SCORE_NAMES


class PromptRow(BaseModel, frozen=True):
    """A prompt of the file."""

    id: str
    prompt: str
    seed: int


class BatchShard(BaseModel, frozen=True):
    """Rows that one worker draws, and all that their images depend on."""

    rows: tuple[PromptRow, ...]
    family: str
    method: str
    agent: str
    ids: BatchIdentity
    overrides: Overrides = NO_OVERRIDES

    @property
    def id(self) -> str:
        """Content hash: equal shards give equal tables."""
        return _digest([self.key(row) for row in self.rows])

    def key(self, row: PromptRow) -> str:
        """Return the name of a row's image: the hash of all that it depends on."""
        from diffgraph.agents.drawn_text import TEXT_VERSION

        by = self.model_dump(mode="json", exclude={"rows": True, "ids": {"planner_name", "scores"}})
        return _digest([row.prompt, row.seed, by, TEXT_VERSION])

    def session(self, home: Path, device: str) -> Session:
        """Return the session that draws by these ids, and by no others.

        Raises:
            SnapshotError: the snapshot is not there any more.
            MissingInput: the planner or the scorers are not those any more.
        """
        session = Session(
            home,
            self.family,
            device,
            self.agent,
            self.ids.snapshot,
            planner_folder(home, self.family, self.ids.planner_name),
            self.overrides,
            self.ids.planner,
        )
        session = session.pinned()  # told now, and not as the failure of each row
        if self.ids.scores and (found := session.scorers_id) != self.ids.scorers:
            raise MissingInput(
                f"the scorers of {self.family} are {found}, and this batch was begun with "
                f"{self.ids.scorers}: draw into another folder"
            )
        return session


def ids_of(out: Path, session: Session) -> BatchIdentity:
    """Return what the images of a folder are drawn by: as it was begun, else what is in force.

    Raises:
        StorageError: the folder cannot be written.
    """
    begun = out / BEGUN
    try:
        return BatchIdentity.model_validate_json(begun.read_bytes())
    except FileNotFoundError:
        pass
    except ValidationError:
        log.warning("%s is damaged; it is set aside as %s", begun, set_aside(begun).name)
    folder, planner = session.planner_used
    scores = session.graph.score_names
    if not can_score(session.family_name, scores):
        scores = ()  # nothing rates the images of this family yet: they are drawn all the same
    ids = BatchIdentity(
        snapshot=session.graph.id,
        planner=planner,
        planner_name=planner_name(session.family_name, folder),
        scorers=session.scorers_id if scores else "",
        scores=scores,
    )
    write_text(begun, ids.model_dump_json(indent=1))
    return ids


def known_rows(out: Path, scores: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of a folder's tables by their keys; damaged tables are set aside.

    A row whose image has gone is not among them; one that could not be drawn says why.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in sorted((out / PARTS).glob("*.parquet")):
        table = find_table(part, _schema(scores))
        for row in table.to_pylist() if table is not None else ():
            if row["error"]:
                found.setdefault(row["key"], row)
            elif (out / row["file"]).is_file():
                found[row["key"]] = row
    return found


def draw(shard: BatchShard, out: Path, home: Path, device: str) -> Path:
    """Draw a shard's prompts, score them and write their table; return its path."""
    import pyarrow as pa

    session = shard.session(home, device)
    rows = []
    for done, row in enumerate(shard.rows, 1):
        rows.append({"key": shard.key(row), **_draw(row, shard, session, out)})
        report("draw", done, len(shard.rows), row.prompt[:40])
    part = out / PARTS / f"{shard.id}.parquet"
    write_table(part, pa.Table.from_pylist(rows, schema=_schema(shard.ids.scores)))
    return part


def collect(rows: Iterable[Mapping[str, Any]], out: Path, scores: Sequence[str]) -> Path:
    """Write the rows of a whole batch as one table; return its path."""
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), *list(_schema(scores))[1:]])
    write_table(out / TABLE, pa.Table.from_pylist(list(rows), schema=schema))
    return out / TABLE


def _draw(row: PromptRow, shard: BatchShard, session: Session, out: Path) -> dict[str, Any]:
    """Return a row of the table; a prompt that cannot be drawn says why in it."""
    from diffgraph.errors import ExpertError, InputError, PlanError
    from diffgraph.generation import as_image, save_png
    from diffgraph.scoring import score
    from diffgraph.session.drawing import metadata_of

    told: dict[str, Any] = {
        "prompt": row.prompt,
        "seed": row.seed,
        "snapshot": shard.ids.snapshot,
        "planner": shard.ids.planner,
        "error": "",
        "drawn_text": "",
    }
    try:
        decision = session.decide(row.prompt, shard.method)
        told["drawn_text"] = session.renderer.text_of(decision.plan, row.prompt).text
        images = session.renderer.render(decision.plan, [row.prompt], [row.seed])
        image = as_image(images[0], decision.plan)
    except (InputError, PlanError, ExpertError) as error:
        return {**told, "error": str(error)}
    # a prompt is never part of a path
    file = Path("images") / f"{_digest([decision.plan.id, row.prompt, row.seed])}.png"
    metadata = metadata_of(
        session, decision.plan, session.family.sampler, decision.selection.lines()
    )
    more = metadata(row.prompt, row.seed, images[0])
    save_png(out / file, image, decision.plan, row.prompt, row.seed, more)
    drawn = {
        **told,
        "plan_id": decision.plan.id,
        "plan": decision.plan.model_dump_json(),
        "file": str(file),
    }
    if shard.ids.scores:
        values = score(session.scorers, images, [row.prompt])
        drawn |= dict(zip(session.scorers, values[0].tolist(), strict=True))
        if session.graph.manifest.reward is not None:
            drawn["reward"] = float(session.graph.reward.of(values)[0])
    return drawn


def _schema(scores: Sequence[str]) -> Any:
    import pyarrow as pa

    texts = ("drawn_text", "plan_id", "plan", "file", "error")
    return pa.schema(
        [
            ("key", pa.string()),
            ("prompt", pa.string()),
            ("seed", pa.int64()),
            *((name, pa.string()) for name in texts),
            *((name, pa.float64()) for name in (*scores, "reward")),
            ("snapshot", pa.string()),
            ("planner", pa.string()),
        ]
    )


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
