"""Measuring experts: a task is a shard of a few of them, on all reference prompts."""

from collections.abc import Sequence
from pathlib import Path

from diffgraph.graph.calibration import Calibrated, CalibrationConfig, Shard
from diffgraph.graph.reference_prompts import ReferencePrompt
from diffgraph.progress import go_on
from diffgraph.session import Session
from tasks.policies import LOCAL, named, task

TESTED = ("train", "bench", "freeform")
"""The bundled sets whose prompts must not be reference prompts too."""


def scores_folder(home: Path) -> Path:
    """Return where scores are kept, a file an expert."""
    return home / "scores"


@task(**LOCAL)
def choose_reference_prompts(
    family: str, count: int, candidates: Path | None = None, exclude: Sequence[Path] = ()
) -> list[ReferencePrompt]:
    """Choose the prompts that experts are measured on.

    Args:
        family: whose bundled candidates are used, or general ones if it has none, and whose train
            and test sets are left out.
        count: how many are wanted.
        candidates: a JSONL or Parquet file to choose from instead of the bundled set.
        exclude: files of prompts that must not be chosen, besides the bundled ones.
    """
    from diffgraph.evaluation.prompt_sets import bundled_sets
    from diffgraph.graph.candidates import GENERAL, stream_candidates
    from diffgraph.graph.reference_prompts import choose

    bundled = bundled_sets(family)
    tested = [bundled[name] for name in TESTED if name in bundled]
    offered = candidates or bundled.get("reference", GENERAL)
    return choose(
        stream_candidates(offered),
        count,
        exclude=[text for path in (*tested, *exclude) for text in stream_candidates(path)],
        embedder=Session(Path(), family).embedder,
    )


@task(**LOCAL)
def plan_calibration(
    home: Path,
    family: str,
    agent: str,
    prompts: list[ReferencePrompt],
    config: CalibrationConfig,
    only_missing: bool,
) -> list[Shard]:
    """Share the work out: every ready expert and the base on every prompt."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.calibration import shards
    from diffgraph.graph.registration import Cards, described
    from diffgraph.scoring import identity_of, scorers_of

    reader = Session(home, family, agent_name=agent).agent
    ready, cards = described(Library(home), family, reader, Cards(home / "cards"), ("ready",))
    experts = [
        (expert, card.recommended_strength) for expert, card in zip(ready, cards, strict=True)
    ]
    return shards(
        family,
        experts,
        prompts,
        config,
        identity_of(family),
        scores_folder(home) if only_missing else None,
        tuple(scorers_of(family)),
    )


@task(**LOCAL, task_run_name=named(lambda given: f"calibrate {given['shard'].id}"))
def calibrate_shard(shard: Shard, home: Path, device: str) -> Calibrated:
    """Draw and score a few experts; what is there already is not drawn again.

    Raises:
        MissingInput: the scorers here are not those that the shard names its scores after.
    """
    from diffgraph.errors import MissingInput
    from diffgraph.graph.calibration import calibrate
    from diffgraph.scoring import identity_of

    if (found := identity_of(shard.family, shard.scores)) != shard.scorers:
        raise MissingInput(f"the scorers of {shard.family} are {found} here, not {shard.scorers}")
    session = Session(home, shard.family, device)
    folder, scorers = scores_folder(home), session.scorers_of(shard.scores)
    return calibrate(shard, session.renderer, scorers, folder, lambda _: go_on())
