"""How does the planner get better? It tries plans on real images, and is promoted if it wins."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.evaluation.prompt_sets import load_prompts
from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.planner.planner import Planner
from diffgraph.planner.training import (
    StepRecord,
    TrainingConfig,
    TrainingPrompt,
    has_learnt,
    history,
)
from diffgraph.planner.training import train as train_planner
from diffgraph.progress import report
from diffgraph.results import Recorded, Result, Rows
from diffgraph.session import Session
from diffgraph.session.overrides import Overrides
from diffgraph.session.planners import UNTRAINED, planner_folder, planner_in_force, planners_folder
from diffgraph.settings import Settings
from flows.serving.parameter_types import Identifier, Name, Seed, Steps, TrainingPrompts
from flows.serving.publishing import publish
from flows.serving.runners import runner_for
from flows.serving.watched import flow, one_at_a_time
from tasks.tracking import record_training
from tasks.training import choose_experts, promote, score_rollouts, try_planner

ONE_IN = 8
"""One in so many training prompts is kept back: planners are compared on them."""
MOST_TRIALS = 48


class TrainingResult(Result):
    """A trained planner, and whether it is now in force."""

    planner: str
    folder: Path
    snapshot: str
    steps: int
    reward: float
    """Mean reward of its plans on prompts that were kept back."""
    champion_reward: float | None
    """Of the planner that was in force, on the same prompts and noise."""
    promoted: bool
    run: Recorded

    def lines(self) -> Iterator[str | Rows]:
        """Yield how good it is, and whether it won."""
        before = "none" if self.champion_reward is None else f"{self.champion_reward:+.3f}"
        yield (
            f"planner {self.planner}: reward {self.reward:+.3f} after {self.steps} steps on "
            f"snapshot {self.snapshot}; the planner before: {before}"
        )
        yield "promoted: it is in force now" if self.promoted else "not better, so not promoted"
        yield f"{self.folder}; {self.run.line()}"


@flow(name="train-planner", task_runner=runner_for(Settings()))
@one_at_a_time("train")
def train(
    snapshot: Identifier | None = None,
    steps: Steps | None = None,
    seed: Seed = 0,
    normalisation: Normalisation = "strength",
    prompts: TrainingPrompts | None = None,
    family: Name | None = None,
    like: Identifier | None = None,
) -> TrainingResult:
    """Train a planner on generated and scored images; promote it if it is better.

    Args:
        snapshot: the graph's id; the current one if unset.
        steps: batches of rewards.
        seed: of all that is drawn by lot.
        normalisation: what predicted weights stand for; softmax is the paper's.
        prompts: practise on so many of the training prompts at most.
        family: the model family; the setting if unset.
        like: train as this planner was, what is asked for here aside: its id, or `shipped` for the
            one that comes with the family.
    """
    settings = Settings()
    family = family or settings.family
    session = Session.of(settings, family, snapshot).pinned()
    if not session.graph.calibrated:
        raise SnapshotError(
            f"no expert of snapshot {session.graph.id} is calibrated yet, so that nothing can be "
            "learnt: run `diffgraph build` first"
        )
    start = None if like is None else _as(like, settings.home, family)
    config = _config(session.overrides, start, steps=steps, seed=seed, normalisation=normalisation)
    texts = [prompt.text for prompt in load_prompts("train", limit=prompts, family=family)]
    trials = texts[::ONE_IN][:MOST_TRIALS]
    practice = [text for text in texts if text not in set(texts[::ONE_IN])]
    name = _name(session, config, practice, trials)
    folder = planners_folder(settings.home, family) / name

    _practise(session, practice, trials, config, folder, _share(settings))

    fixed = Session.of(settings, family, session.graph.id, folder)
    reward = try_planner(fixed, trials)
    champion = _reward_of_champion(settings, fixed, trials, name)
    is_better = isfinite(reward) and (champion is None or reward > champion)
    promoted = is_better and has_learnt(folder)
    report("record", 0, 1, "MLflow")
    run = record_training(
        settings.home,
        settings.mlflow_tracking_uri,
        {
            "family": family,
            "snapshot": session.graph.id,
            **config.model_dump(mode="json"),
            **session.configs(),
        },
        [_numbers(record) for record in history(folder)],
        {"trial_reward": reward, **({} if champion is None else {"champion_reward": champion})},
        folder,
        promoted,
    )
    report("record", 1, 1, run.line())
    if promoted:  # what is not recorded, or kept to be recorded, is never in force
        promote(settings.home, family, name)
    done = TrainingResult(
        planner=name,
        folder=folder,
        snapshot=session.graph.id,
        steps=config.steps,
        reward=reward,
        champion_reward=champion,
        promoted=promoted,
        run=run,
    )
    publish(done, key="trained-planner")
    return done


def _practise(
    session: Session,
    practice: list[str],
    trials: list[str],
    config: TrainingConfig,
    folder: Path,
    shards: int,
) -> None:
    """Run the training loop here; its rollouts are tasks."""
    chosen = choose_experts(session, [*practice, *trials])
    vectors = session.embedder.embed([selection.prompt for selection in chosen])
    ready = [
        TrainingPrompt.of(selection, vector)
        for selection, vector in zip(chosen, vectors, strict=True)
    ]
    held_back = set(trials)
    report("train", 0, config.steps, "the untrained planner first")

    def rollouts(
        plans: Sequence[MergePlan], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[float]:
        size = -(-len(plans) // shards)
        futures = [
            score_rollouts.submit(
                session,
                list(plans[start : start + size]),
                list(prompts[start : start + size]),
                list(seeds[start : start + size]),
            )
            for start in range(0, len(plans), size)
        ]
        return [reward for future in futures for reward in future.result()]

    def told(record: StepRecord) -> None:
        report("train", record.step, record.steps, f"reward {record.reward:+.3f}")

    train_planner(
        session.graph,
        [prompt for prompt in ready if prompt.text not in held_back],
        rollouts,
        config,
        folder,
        told,
        [prompt for prompt in ready if prompt.text in held_back],
    )


def _reward_of_champion(
    settings: Settings, session: Session, trials: list[str], name: str
) -> float | None:
    """Return how good the planner in force is on this graph; None if there is none."""
    try:
        folder, _ = planner_in_force(settings.home, session.family_name)
    except MissingInput:
        return None
    if folder.name in (name, UNTRAINED):
        return None  # this very training was promoted before, or none was
    return try_planner(replace(session, planner_folder=folder), trials)


def _share(settings: Settings) -> int:
    """Return how many shards keep all workers busy."""
    return max(len(settings.gpus), settings.workers, 1)


def _as(like: str, home: Path, family: str) -> TrainingConfig:
    """Return how a planner was trained."""
    folder = planner_folder(home, family, like)
    stated = Planner.load(folder).config.training
    try:
        return TrainingConfig.model_validate(stated)
    except ValidationError as error:
        raise MissingInput(f"{folder} does not say how it was trained: {error}") from error


def _config(
    overrides: Overrides, start: TrainingConfig | None = None, **given: Any
) -> TrainingConfig:
    """Return how to train: what was asked for, else what the config file says, else the start."""
    default = TrainingConfig()
    start = start or default
    asked = {name: value for name, value in given.items() if value != getattr(default, name)}
    nested = {"search": overrides.of(start.search), "vgae": overrides.of(start.vgae)}
    return overrides.of(start, **asked, **nested)


def _name(session: Session, config: TrainingConfig, *prompts: list[str]) -> str:
    """Return the planner's name: equal trainings have equal names, so that one goes on."""
    facts: list[Any] = [session.graph.id, config.model_dump(mode="json"), *prompts]
    if session.overrides.tables:  # other images, other rewards
        facts.append(session.overrides.tables)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _numbers(record: StepRecord) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.model_dump(exclude={"steps"}).items()
        if value is not None
    }
