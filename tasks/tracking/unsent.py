"""What is kept of a run until MLflow has it? A file a record, in the home folder.

A record is a file first and MLflow's afterwards: whatever happens to a server, nothing of it is
lost, and what it allows (a planner in force) waits for no server.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from diffgraph.artifacts import write_text

log = logging.getLogger(__name__)

UNSENT = "unsent"
"""The folder of the home for records that MLflow does not have yet."""


class Record(BaseModel):
    """All that is remembered of a run."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    experiment: str
    params: dict[str, str]
    metrics: dict[str, float] = {}
    history: Sequence[dict[str, float]] = ()
    """One row a step: `step` and whatever was measured."""
    files: Sequence[Path] = ()
    planner: Path | None = None
    """Its folder."""
    promote: bool = False
    """Whether the planner is in force."""


def keep(home: Path, record: Record) -> Path:
    """Write a record down; return its file.

    Raises:
        StorageError: the home cannot be written.
    """
    place = home / UNSENT / f"{time.time_ns():020d}-{os.getpid()}.json"
    write_text(place, record.model_dump_json())
    return place


def waiting(home: Path) -> list[Path]:
    """Return the files of records that MLflow does not have yet, oldest first."""
    return sorted((home / UNSENT).glob("*.json"))


def read(place: Path) -> Record | None:
    """Return a record; one that is damaged is logged and set aside."""
    try:
        record = Record.model_validate_json(place.read_bytes())
    except ValidationError:
        aside = place.replace(place.with_suffix(".damaged"))
        log.warning("%s is damaged, is set aside and will not be sent", aside)
        return None
    if record.planner is None or record.planner.is_dir():
        return record
    # written before the planners of the home were moved to their families
    found = sorted(place.parent.parent.glob(f"families/*/planners/{record.planner.name}"))
    return record.model_copy(update={"planner": found[0] if found else record.planner})


def flat(params: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as one level of text: `sampler.steps`."""
    found: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found
