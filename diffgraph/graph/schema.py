"""What does a snapshot hold, column by column?

Three Arrow tables and a manifest. A change of meaning raises `SCHEMA_VERSION`: a reader refuses
what it does not understand rather than guess. docs/snapshot-format.md says the same
for people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from diffgraph.experts.card import ExpertCard
from diffgraph.experts.coverage import CoverageReport
from diffgraph.experts.expert import Expert
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.scoring.reward import SCORE_NAMES, Reward

SCHEMA_VERSION = 2
OTHER_SCORES = 3
READABLE_VERSIONS = (1, 2, OTHER_SCORES)
"""2 tells how well each expert's file was understood; 1 did not count. 3 names its scores,
where they are others than the paper's five."""
EMBEDDING_WIDTH = 384  # of all-MiniLM-L6-v2
BASE = "base"
"""The untouched base model, where a score names its expert. No ExpertRef is written like this."""

_EMBEDDING = pa.list_(pa.float32(), EMBEDDING_WIDTH)

COVERAGE = (
    *(
        pa.field(name, pa.int64(), nullable=False)
        for name in ("keys_matched", "keys_skipped", "keys_unknown", "parameters", "non_finite")
    ),
    pa.field("norms", pa.map_(pa.string(), pa.float64()), nullable=False),
    pa.field("evidence", pa.list_(pa.string()), nullable=False),
)
"""How well an expert's file was understood; zeros and nothing where it was not read."""

NODES = pa.schema(
    [
        pa.field("ref", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("allow_derivatives", pa.bool_(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("creator", pa.string(), nullable=False),
        pa.field("published_at", pa.timestamp("us", tz="UTC")),
        pa.field("trigger_words", pa.list_(pa.string()), nullable=False),
        pa.field("summary", pa.string(), nullable=False),
        pa.field("skills", pa.list_(pa.string()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("recommended_strength", pa.float64(), nullable=False),
        pa.field("agent", pa.string(), nullable=False),
        pa.field("agent_model", pa.string(), nullable=False),
        pa.field("instruction_version", pa.string(), nullable=False),
        *COVERAGE,
        pa.field("embedding", _EMBEDDING, nullable=False),
    ]
)

PROMPTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("features", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("embedding", _EMBEDDING, nullable=False),
    ]
)

_SCORED = (
    pa.field("expert", pa.string(), nullable=False),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
)


def scores_schema(names: Sequence[str]) -> Any:
    """Return the columns of a table of these scores."""
    return pa.schema([*_SCORED, *(pa.field(name, pa.float32(), nullable=False) for name in names)])


def names_of_scores(table: Any) -> tuple[str, ...]:
    """Return which scores a table of them holds, in their order."""
    return tuple(table.schema.names[len(_SCORED) :])


SCORES = scores_schema(SCORE_NAMES)
"""Of the paper's five; a graph may hold others: its manifest says which."""

TABLES: Mapping[str, Any] = {"nodes": NODES, "prompts": PROMPTS, "scores": SCORES}


def coverage_row(report: CoverageReport) -> dict[str, Any]:
    """Return the columns that tell how well a file was understood."""
    return {
        "keys_matched": report.matched,
        "keys_skipped": report.skipped,
        "keys_unknown": report.unknown,
        "parameters": report.parameters,
        "non_finite": report.non_finite,
        "norms": sorted(report.norms.items()),
        "evidence": list(report.evidence),
    }


@dataclass(frozen=True)
class ExpertNode:
    """An expert with what registration found out about it."""

    expert: Expert
    card: ExpertCard | None = None
    embedding: NDArray[np.float32] | None = None  # (384,), a unit vector

    @property
    def strength(self) -> float:
        """What its page recommends; else what is usual in its family, and a checkpoint's 1."""
        if self.card is not None and self.card.recommended_strength is not None:
            return self.card.recommended_strength
        return (
            1.0
            if self.expert.kind == "checkpoint"
            else get_family(self.expert.family).usual_strength
        )

    def row(self) -> dict[str, Any]:
        """Return the node's row of the table."""
        expert, card = self.expert, self.card
        return {
            **expert.model_dump(
                include={
                    "ref",
                    "kind",
                    "family",
                    "name",
                    "sha256",
                    "size_bytes",
                    "format",
                    "status",
                    "reason",
                    "published_at",
                }
            ),
            "allow_derivatives": expert.licence.allow_derivatives,
            "licence": expert.licence.name,
            "creator": expert.licence.creator,
            "trigger_words": list(expert.trigger_words or (card.trigger_words if card else ())),
            "summary": card.summary if card else "",
            "skills": list(card.skills) if card else [],
            "text": card.text if card else "",
            "recommended_strength": self.strength,
            "agent": card.agent if card else "",
            "agent_model": card.model if card else "",
            "instruction_version": card.instruction_version if card else "",
            **coverage_row(expert.coverage or CoverageReport()),
            # zeros, for Parquet keeps no missing entry in lists of a fixed size; without an agent
            # the node has no card, and its embedding is not used
            "embedding": _vector(
                np.zeros(EMBEDDING_WIDTH, np.float32) if self.embedding is None else self.embedding,
                expert.ref,
            ),
        }


@dataclass(frozen=True)
class PromptNode:
    """A reference prompt of the graph."""

    id: str
    text: str
    seed: int
    embedding: NDArray[np.float32]  # (384,), a unit vector
    features: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: ReferencePrompt, embedding: NDArray[np.float32]) -> "PromptNode":
        """Return the node of a chosen reference prompt."""
        return cls(prompt.id, prompt.text, prompt.seed, embedding, prompt.features)

    def row(self) -> dict[str, Any]:
        """Return the prompt's row of the table."""
        return {
            "id": self.id,
            "text": self.text,
            "seed": self.seed,
            "features": sorted((name, float(value)) for name, value in self.features.items()),
            "embedding": _vector(self.embedding, self.id),
        }


ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What made a snapshot, and the hashes that prove it whole."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(description="content hash of the tables, the sampler and the scorers")
    family: str
    parent: str | None = Field(default=None, description="the snapshot that was current before")
    created_at: datetime
    code_version: str
    files: dict[str, str] = Field(description="file name → SHA-256")
    sampler: SamplerConfig
    scorers: str = Field(description="identity of the scorers: equal identities, equal scores")
    scores: tuple[ScoreName, ...] = Field(default=SCORE_NAMES, min_length=1)
    reward: Reward | None = Field(
        description="from the base's mean, in units of what experts change on one prompt"
    )
    experts: int = Field(description="nodes, mergeable or not")
    mergeable: int
    uncalibrated: tuple[str, ...] = Field(
        default=(), description="ready experts with missing scores: shown, never merged"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Manifest":
        if self.reward is not None and self.reward.names != self.scores:
            raise ValueError("the reward is of other scores than the graph")
        return self

    def written(self) -> str:
        """Return it as JSON; `scores` is left out of a version that older code reads."""
        unsaid = {"scores"} if self.schema_version == SCHEMA_VERSION else None
        return self.model_dump_json(indent=2, exclude=unsaid)


def _vector(embedding: NDArray[np.float32], owner: str) -> NDArray[np.float32]:
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.shape != (EMBEDDING_WIDTH,) or not np.isfinite(vector).all():
        raise ValueError(
            f"{owner}: an embedding has {EMBEDDING_WIDTH} finite numbers, this one {vector.shape}"
        )
    return vector
