"""What can each expert really do? Its images for the reference prompts, scored.

DiffGraph section 3.1, node calibration (https://arxiv.org/abs/2603.20470). Every expert draws every
reference prompt alone, from the same noise as all the others, and scorers rate what it drew. Its
trigger words are in the text, as in every other drawing: without them it may do nothing.
The untouched base is calibrated like an expert, so that a score can be read as a gain.

The scores of one expert are one Parquet file, named by everything they depend on. So nothing is
drawn twice: a new expert leaves the others' files as they are, and a run that was killed goes on
with the expert it had not finished. A shard is a few experts that one worker draws in one go.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from diffgraph.agents.drawn_text import drawn_text
from diffgraph.agents.triggers import trigger_phrases
from diffgraph.errors import ExpertError, MissingInput, PlanError
from diffgraph.experts.expert import Expert, Kind
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.families.scorer import Scorer
from diffgraph.graph.schema import BASE, scores_schema
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.tables import find_table, write_table

log = logging.getLogger(__name__)

CALIBRATION_VERSION = 1
"""Raised when the same inputs would give other scores: old parts are then not used any more."""
SEED_STRIDE = 1_000_003  # between the seeds of one prompt; a prime, so that prompts do not meet


class CalibrationConfig(BaseModel, frozen=True, extra="forbid"):
    """How experts are calibrated. All but the sizes is part of the identity of a score."""

    prompts: int = Field(default=48, ge=1, description="reference prompts")
    seeds: int = Field(default=1, ge=1, description="images an expert and prompt")
    strength: Literal["recommended"] | float = Field(
        default="recommended", description="of a PEFT expert; a checkpoint is always whole"
    )
    sampler: SamplerConfig = SamplerConfig()
    shard_size: int = Field(default=4, ge=1, description="experts a shard")
    batch_size: int = Field(default=16, ge=1, description="images drawn at a time")


class ShardExpert(BaseModel, frozen=True):
    """An expert of a shard; `ref` is `base` for the untouched base model."""

    ref: str
    kind: Kind = "checkpoint"
    sha256: str = ""
    coefficient: float = 1.0
    triggers: tuple[str, ...] = Field(default=(), description="what it acts on, as drawn")


class ShardPrompt(BaseModel, frozen=True):
    """A reference prompt."""

    id: str
    text: str
    seed: int


class Shard(BaseModel, frozen=True):
    """Some experts on all reference prompts: what one worker draws and scores in one go."""

    family: str
    experts: tuple[ShardExpert, ...]
    prompts: tuple[ShardPrompt, ...]
    seeds: int
    sampler: SamplerConfig
    scorers: str = Field(description="identity of the scorers")
    scores: tuple[str, ...] = SCORE_NAMES
    batch_size: int

    @property
    def id(self) -> str:
        """Content hash of all that the scores depend on."""
        return _digest([self.key(expert) for expert in self.experts])

    @property
    def images(self) -> int:
        """How many images the shard draws."""
        return len(self.experts) * len(self.prompts) * self.seeds

    def text(self, expert: ShardExpert, prompt: ShardPrompt) -> str:
        """Return what an expert draws for a prompt: with its trigger words."""
        vocabulary = get_family(self.family).vocabulary()
        return drawn_text(prompt.text, vocabulary, [(expert.ref, expert.triggers)]).text

    def key(self, expert: ShardExpert) -> str:
        """Return the name of an expert's scores: equal names hold equal scores."""
        return _digest(
            [
                CALIBRATION_VERSION,
                self.family,
                # the ref as well: a part names its expert in its rows
                [expert.ref, expert.kind, expert.sha256, round(expert.coefficient, 6)],
                [self._drawn(expert, prompt) for prompt in self.prompts],
                self.seeds,
                self.sampler.model_copy(update={"triggers": True}).model_dump(),
                self.scorers,
                self.scores,
            ]
        )

    def _drawn(self, expert: ShardExpert, prompt: ShardPrompt) -> list[str | int]:
        told: list[str | int] = [prompt.id, prompt.text, prompt.seed]
        text = self.text(expert, prompt)
        # so that what draws the very text of the prompt keeps the name it had before
        return told if text == prompt.text else [*told, text]


class Calibrated(BaseModel, frozen=True):
    """What became of a shard."""

    parts: tuple[Path, ...] = Field(description="one file of scores an expert")
    failed: dict[str, str] = Field(description="expert → why it has no scores")


class PlanRenderer(Protocol):
    """Draws a plan's images: `diffgraph.generation.PlanRenderer` does."""

    def render(
        self,
        plan: MergePlan,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig | None = None,
    ) -> Tensor:
        """Return (prompts, 3, height, width) in [0, 1]."""
        ...

    def prefetch(self, plans: Sequence[MergePlan]) -> None:
        """Read what will be drawn next in the background."""
        ...


class PromptLike(Protocol):
    """A reference prompt, whoever made it."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def seed(self) -> int: ...


def shards(
    family: str,
    experts: Sequence[tuple[Expert, float]],
    prompts: Sequence[PromptLike],
    config: CalibrationConfig,
    scorers: str,
    folder: Path | None = None,
    scores: Sequence[str] = SCORE_NAMES,
) -> list[Shard]:
    """Return the work of a calibration, the base included.

    Args:
        family: the base model's.
        experts: each with its recommended strength.
        prompts: the reference prompts, in their order.
        config: how.
        scorers: identity of the scorers.
        folder: where parts are kept; experts whose part is there and whole are left out.
        scores: names of the scorers, in their order.
    """
    whole = Shard(
        family=family,
        experts=tuple(_wanted(experts, config)),
        prompts=tuple(ShardPrompt(id=p.id, text=p.text, seed=p.seed) for p in prompts),
        seeds=config.seeds,
        sampler=config.sampler,
        scorers=scorers,
        scores=tuple(scores),
        batch_size=config.batch_size,
    )
    left = [e for e in whole.experts if folder is None or not is_kept(whole, e, folder)]
    size = config.shard_size
    return [
        whole.model_copy(update={"experts": tuple(left[start : start + size])})
        for start in range(0, len(left), size)
    ]


def parts(work: Sequence[Shard], folder: Path) -> list[Path]:
    """Return the files of scores that are there for these shards: what a snapshot is made of."""
    paths = [part_path(shard, expert, folder) for shard in work for expert in shard.experts]
    return [path for path in paths if path.is_file()]


def is_kept(shard: Shard, expert: ShardExpert, folder: Path) -> bool:
    """Return whether an expert's scores are there; a damaged file of them is set aside, and logged.

    Raises:
        StorageError: a damaged file cannot be set aside, or the disk does not give it.
    """
    return find_table(part_path(shard, expert, folder), scores_schema(shard.scores)) is not None


def part_path(shard: Shard, expert: ShardExpert, folder: Path) -> Path:
    """Return where an expert's scores are kept."""
    return folder / f"{shard.key(expert)}.parquet"


def calibrate(
    shard: Shard,
    renderer: PlanRenderer,
    scorers: Mapping[str, Scorer],
    folder: Path,
    on_progress: Callable[[int], None] | None = None,
) -> Calibrated:
    """Draw and score a shard; experts whose scores are there already are not drawn again.

    An expert that cannot be drawn is reported and the others go on. Without the base there is
    nothing to compare with, so its failure is raised.

    Args:
        shard: what to draw.
        renderer: draws a plan.
        scorers: those of the shard's scores, by name.
        folder: where parts are kept.
        on_progress: called with how many images are newly done, already known ones included.
    """
    done: list[Path] = []
    failed: dict[str, str] = {}
    advance = on_progress or (lambda images: None)
    waiting = [item for item in shard.experts if not is_kept(shard, item, folder)]
    for expert in shard.experts:
        path = part_path(shard, expert, folder)
        if expert not in waiting:
            advance(len(shard.prompts) * shard.seeds)
        else:
            following = waiting[waiting.index(expert) + 1 :][:1]
            renderer.prefetch([plan_alone(shard.family, item) for item in following])
            try:
                table = _scores_of(shard, expert, renderer, scorers, advance)
            except (ExpertError, PlanError, MissingInput) as error:
                if expert.ref == BASE:
                    raise
                failed[expert.ref] = f"{type(error).__name__}: {error}"
                log.warning("%s is not calibrated: %s", expert.ref, error)
                continue
            write_table(path, table)
        done.append(path)
    return Calibrated(parts=tuple(done), failed=failed)


def plan_alone(family: str, expert: ShardExpert) -> MergePlan:
    """Return the plan that shows what one expert does on its own; the base has none."""
    if expert.ref == BASE:
        return MergePlan(family=family)
    planned = PlannedExpert(
        ref=expert.ref, kind=expert.kind, coefficient=expert.coefficient, sha256=expert.sha256
    )
    return MergePlan(family=family, experts=(planned,), normalisation="none")


def _wanted(
    experts: Sequence[tuple[Expert, float]], config: CalibrationConfig
) -> list[ShardExpert]:
    wanted = [ShardExpert(ref=BASE)]
    for expert, recommended in experts:
        strength = recommended if config.strength == "recommended" else config.strength
        wanted.append(
            ShardExpert(
                ref=expert.ref,
                kind=expert.kind,
                sha256=expert.sha256,
                coefficient=1.0 if expert.kind == "checkpoint" else float(strength),
                triggers=trigger_phrases(expert.trigger_words) if config.sampler.triggers else (),
            )
        )
    return wanted


def _scores_of(
    shard: Shard,
    expert: ShardExpert,
    renderer: PlanRenderer,
    scorers: Mapping[str, Scorer],
    advance: Callable[[int], None],
) -> Any:
    """Return an expert's scores on every prompt and seed, as a table of its scores."""
    from diffgraph.scoring import score

    plan = plan_alone(shard.family, expert)
    drawn = [
        (prompt, prompt.seed + SEED_STRIDE * number)
        for number in range(shard.seeds)
        for prompt in shard.prompts
    ]
    rating = {name: scorers[name] for name in shard.scores}
    sampler = shard.sampler.model_copy(update={"triggers": False})  # the texts have them
    values: list[Tensor] = []
    for start in range(0, len(drawn), shard.batch_size):
        batch = drawn[start : start + shard.batch_size]
        texts = [shard.text(expert, prompt) for prompt, _ in batch]
        images = renderer.render(plan, texts, [seed for _, seed in batch], sampler=sampler)
        # what was asked for is what counts, not what made the expert act
        values.append(score(rating, images, [prompt.text for prompt, _ in batch]).float().cpu())
        advance(len(batch))
    table = torch.cat(values)
    if not torch.isfinite(table).all():
        raise ExpertError(
            f"{expert.ref} draws images that no scorer can rate: a score is not finite"
        )
    columns = {name: table[:, place].numpy() for place, name in enumerate(shard.scores)}
    return pa.table(
        {
            "expert": [expert.ref] * len(drawn),
            "prompt": [prompt.id for prompt, _ in drawn],
            "seed": [seed for _, seed in drawn],
            **columns,
        },
        schema=scores_schema(shard.scores),
    )


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
