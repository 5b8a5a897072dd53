"""Training the planner: rollouts are drawn and scored by whatever workers there are."""

from collections.abc import Sequence
from pathlib import Path

from diffgraph.merging.plan import MergePlan
from diffgraph.planner.selection import Selection
from diffgraph.progress import go_on, report
from diffgraph.session import Session
from diffgraph.session.planners import planners_folder
from tasks.policies import LOCAL, named, task

IMAGES_TOGETHER = 8
SEED_OF_TRIALS = 7_000_003
"""Trials share it, so that planners are compared on the same noise."""


@task(**LOCAL)
def choose_experts(session: Session, prompts: list[str]) -> list[Selection]:
    """Choose the experts of each prompt; prompts that nothing can be drawn for are left out."""
    from diffgraph.errors import InputError

    chosen = []
    for done, prompt in enumerate(prompts, 1):
        try:
            chosen.append(session.select(prompt))
        except InputError:
            continue
        report("select", done, len(prompts), prompt[:40])
    return chosen


@task(**LOCAL, task_run_name=named(lambda given: f"score {len(given['plans'])} images"))
def score_rollouts(
    session: Session, plans: list[MergePlan], prompts: list[str], seeds: list[int]
) -> list[float]:
    """Draw one image a plan and return their rewards; NaN where an expert cannot be drawn."""
    return rewards_of(session, plans, prompts, seeds)


@task(**LOCAL)
def try_planner(session: Session, prompts: list[str]) -> float:
    """Return the mean reward of a planner's plans on prompts that it has not practised on.

    NaN if none of them can be drawn.
    """
    from math import nan
    from statistics import fmean

    plans = [session.decide(prompt).plan for prompt in prompts]
    rewards: list[float] = []
    for start in range(0, len(prompts), IMAGES_TOGETHER):
        report(f"try {session.planner_id[:4]}", start, len(prompts))
        part = slice(start, start + IMAGES_TOGETHER)
        rewards += rewards_of(
            session, plans[part], prompts[part], [SEED_OF_TRIALS] * len(prompts[part])
        )
    report(f"try {session.planner_id[:4]}", len(prompts), len(prompts))
    drawn = [reward for reward in rewards if reward == reward]  # NaN is unequal to itself
    return fmean(drawn) if drawn else nan


@task(**LOCAL)
def promote(home: Path, family: str, planner: str) -> str:
    """Make a planner the one in force.

    Raises:
        MissingInput: there is no whole planner of this name.
    """
    from diffgraph.homes import CHAMPION, family_folder, write_pointer
    from diffgraph.planner.planner import Planner

    Planner.load(planners_folder(home, family) / planner)
    write_pointer(family_folder(home, family) / CHAMPION, planner)
    return planner


def rewards_of(
    session: Session, plans: Sequence[MergePlan], prompts: Sequence[str], seeds: Sequence[int]
) -> list[float]:
    """Draw one image a plan and return their rewards; NaN where an expert cannot be drawn."""
    from diffgraph.errors import ExpertError, PlanError
    from diffgraph.scoring import score

    try:
        images = session.renderer.render_rollouts(plans, prompts, seeds, on_step=lambda _: go_on())
    except (ExpertError, PlanError):
        if len(plans) == 1:
            return [float("nan")]
        parts = zip(plans, prompts, seeds, strict=True)
        return [rewards_of(session, [plan], [prompt], [seed])[0] for plan, prompt, seed in parts]
    rewards: list[float] = session.graph.reward.of(score(session.scorers, images, prompts)).tolist()
    return rewards
