"""What do we know of every expert? Describe them, measure them, write a snapshot."""

import time

from diffgraph.agents.questions import DESCRIBE
from diffgraph.agents.spending import Spending
from diffgraph.graph.calibration import CalibrationConfig
from diffgraph.session import Session
from diffgraph.session.agents import spent_since
from diffgraph.session.building import BuildResult, GraphBuilder, write_interim
from diffgraph.session.in_place import unread_in_place
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings
from flows.serving.parameter_types import ImagesAPrompt, Name, Place, ReferencePrompts
from flows.serving.publishing import publish
from flows.serving.runners import results_of, runner_for
from flows.serving.watched import flow, one_at_a_time
from tasks.building import (
    PAGES_A_TASK,
    calibrate_shard,
    choose_reference_prompts,
    read_files_in_place,
    register,
    register_library,
    write,
)
from tasks.tracking import record_spending

INTERIM_SECONDS = 600.0  # between graphs of those who are measured so far
IMAGES_A_TASK = 64  # some seconds on a laptop: as much as a killed worker may lose


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
    builder = GraphBuilder(settings.home, family, settings.agent)
    builder.demand_experts()
    left, size = builder.unregistered(), PAGES_A_TASK.get(settings.agent, 500)
    parts = [left[start : start + size] for start in range(0, len(left), size)]
    pages = [
        register.submit(builder, part, f"{number} of {len(parts)}")
        for number, part in enumerate(parts, 1)
    ]
    prompts = choose_reference_prompts(family, config.prompts, candidates, list(exclude))
    try:
        registered = [page.result() for page in pages]
    finally:  # what was answered was paid for, whatever came after
        spending = _told_spending(settings, start)
    failed: dict[str, str] = {}
    if unread_in_place(builder.library, family):
        failed |= read_files_in_place(settings.home, family)
    work = builder.shards(prompts, config, only_missing=True)
    given = (settings.home, settings.device)
    written = time.monotonic()
    try:
        for part in results_of(
            calibrate_shard, work, "calibrate", lambda shard: shard.images, *given
        ):
            failed |= part.failed
            if time.monotonic() - written > INTERIM_SECONDS:
                write_interim(builder, prompts, config, failed)
                written = time.monotonic()
    except BaseException:  # stopped: whoever is measured counts
        write_interim(builder, prompts, config, failed)
        raise
    before, after = write(builder, prompts, config, failed)
    if builder.is_outdated:
        register_library(settings.home, family, settings.agent)
    built = BuildResult.of(
        before,
        after,
        prompts=len(prompts),
        images=sum(shard.images for shard in work),
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
