"""What do we know of every expert? Describe them, measure them, write a snapshot."""

import time
from collections.abc import Iterator, Sequence

from diffgraph.agents.questions import DESCRIBE
from diffgraph.agents.spending import Spending
from diffgraph.errors import SnapshotError
from diffgraph.experts.library import Library
from diffgraph.graph.calibration import CalibrationConfig, Shard
from diffgraph.results import Result, Rows, rows
from diffgraph.session import Session
from diffgraph.session.agents import spent_since
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings
from flows.serving.parameter_types import ImagesAPrompt, Name, Place, ReferencePrompts
from flows.serving.publishing import publish
from flows.serving.runners import results_of, runner_for
from flows.serving.watched import flow, one_at_a_time
from tasks.calibration import calibrate_shard, choose_reference_prompts, plan_calibration
from tasks.registration import PAGES_A_TASK, find_unregistered, register_experts
from tasks.snapshots import SnapshotChanges, write
from tasks.tracking import record_spending

IMAGES_A_TASK = 64  # some seconds on a laptop: as much as a killed worker may lose


class BuildResult(Result, SnapshotChanges):
    """A snapshot, what changed, and what it took."""

    images: int
    """Images drawn and scored now; what was known already was not drawn again."""
    failed: dict[str, str]
    """Expert → why it could not be measured."""
    config: CalibrationConfig
    """How experts were measured."""
    asked: int = 0
    """Pages that the agent had to read."""
    embedded: int = 0
    """Cards that had to be placed among the others."""
    spending: Spending = Spending()
    """What the answers of a language model took."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield the main figures first."""
        yield (
            f"snapshot {self.snapshot}: {self.mergeable} experts can be merged, "
            f"{self.experts - self.mergeable} only known, {self.prompts} reference prompts"
        )
        yield (
            f"{len(self.new)} new, {len(self.updated)} updated, {len(self.retired)} retired; "
            f"{self.images} images drawn and scored"
        )
        if self.asked or self.embedded:
            yield f"{self.asked} pages read, {self.embedded} cards placed"
        if self.spending.answers:
            yield self.spending.line()
        if self.failed:
            yield self.failures

    @property
    def failures(self) -> Rows:
        """Which experts could not be measured, and why."""
        return rows(("expert", "reason"), sorted(self.failed.items()))


@flow(name="build", task_runner=runner_for(Settings()))
@one_at_a_time("build")
def build(
    family: Name | None = None,
    reference_prompts: ReferencePrompts | None = None,
    images_a_prompt: ImagesAPrompt | None = None,
    candidates: Place | None = None,
    exclude: tuple[Place, ...] = (),
) -> BuildResult:
    """Describe and calibrate what is new in the library, and write a snapshot.

    Args:
        family: the model family; the setting if unset.
        reference_prompts: prompts that every expert is measured on.
        images_a_prompt: images an expert and prompt, each from a noise of its own.
        candidates: choose reference prompts from this file; from the bundled ones if unset.
        exclude: files of prompts that must not be reference prompts.
    """
    settings, start = Settings(), time.time()
    family = family or settings.family
    config = _config(settings, family, reference_prompts, images_a_prompt)
    _require_experts(settings, family)
    who = (settings.home, family, settings.agent)
    unregistered = _in_parts(find_unregistered(*who), PAGES_A_TASK.get(settings.agent, 500))
    pages = [
        register_experts.submit(part, *who, part=f"{number} of {len(unregistered)}")
        for number, part in enumerate(unregistered, 1)
    ]
    prompts = choose_reference_prompts(family, config.prompts, candidates, list(exclude))
    try:
        registered = [page.result() for page in pages]
    finally:  # what was answered was paid for, whatever came after
        spending = _told_spending(settings, start)
    share = (*who, prompts, config)
    left = plan_calibration(*share, only_missing=True)
    failed = _calibrate(left, settings)
    work = plan_calibration(*share, only_missing=False)
    written = write(*who, prompts, work, config.sampler)
    built = BuildResult(
        **written.model_dump(),
        images=sum(shard.images for shard in left),
        failed=failed,
        config=config,
        asked=sum(part.asked for part in registered),
        embedded=sum(part.embedded for part in registered),
        spending=spending,
    )
    publish(built, key="graph-snapshot")
    return built


def _config(
    settings: Settings, family: str, prompts: int | None, seeds: int | None
) -> CalibrationConfig:
    """Return how to calibrate: as asked for, else as the config file says, else the default."""
    overrides = read_overrides(settings.config)
    sampler = Session.of(settings, family).family.sampler
    config = overrides.of(CalibrationConfig(), prompts=prompts, seeds=seeds, sampler=sampler)
    if "shard_size" in overrides.tables.get("calibration", {}):
        return config
    size = max(1, IMAGES_A_TASK // (config.prompts * config.seeds))
    return config.model_copy(update={"shard_size": size})


def _told_spending(settings: Settings, start: float) -> Spending:
    """Return what a language model's answers took since the start, and have it recorded."""
    spending = spent_since(settings.home, start)
    if spending.answers:
        record_spending(
            settings.home,
            settings.mlflow_tracking_uri,
            settings.claude_model,
            DESCRIBE.version,
            spending.model_dump(),
        )
    return spending


def _require_experts(settings: Settings, family: str) -> None:
    known = Library(settings.home).experts(("ready", "registered_only"))
    if not any(expert.family == family for expert in known):
        raise SnapshotError(
            f"the library in {settings.home} holds no expert of {family}: run `diffgraph discover`"
        )


def _calibrate(shards: Sequence[Shard], settings: Settings) -> dict[str, str]:
    """Run the shards on whatever workers there are; return the experts that failed."""
    at_work = [
        (calibrate_shard.submit(shard, settings.home, settings.device), shard.images)
        for shard in shards
    ]
    failed: dict[str, str] = {}
    for calibrated in results_of(at_work, "calibrate", sum(shard.images for shard in shards)):
        failed |= calibrated.failed
    return failed


def _in_parts(items: Sequence[str], size: int) -> list[list[str]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
