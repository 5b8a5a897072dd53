"""What does every method earn on every prompt? The same path from plan to reward for all of them.

Methods differ in the plan and in nothing else: the same prompts, seeds, noise, sampler and scorers.
A picture that several methods plan alike is drawn once. What is finished is never done again.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field
from torch import Tensor, tensor

from diffgraph.artifacts import new_file, write_text
from diffgraph.errors import ExpertError, InputError, PlanError
from diffgraph.evaluation.methods import METHODS
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.evaluation.store import Job, ScoreStore
from diffgraph.generation import as_image, save_png
from diffgraph.merging.plan import MergePlan
from diffgraph.scoring.reward import SCORE_NAMES

log = logging.getLogger(__name__)

PlanMaker = Callable[[str, EvaluationPrompt], Sequence[MergePlan]]
"""(method, prompt) → its plan. Of several plans the best is taken, an oracle: for each seed the one
that earns most on the other seeds, so that the luck of a seed is no merit."""

Key = tuple[str, str]
"""(method, prompt id)"""


@dataclass(frozen=True)
class Bench:
    """What turns a plan into a reward: one for all methods."""

    make_plans: PlanMaker
    render: Callable[[MergePlan, Sequence[str], Sequence[int]], Tensor]
    """(plan, prompts, seeds) → (images, 3, height, width), in [0, 1]."""
    score: Callable[[Tensor, Sequence[str]], Tensor]
    """(images, prompts) → (images, scores)."""
    reward: Callable[[Tensor], Tensor]
    """(images, scores) → (images,)."""
    identity: str
    """Family, sampler and scorers in writing: results of another identity are not mixed in."""
    scores: tuple[str, ...] = SCORE_NAMES
    """What `score` returns, in its order."""


class EvaluationConfig(BaseModel, frozen=True, extra="forbid"):
    """What is compared, and how thoroughly."""

    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    batch: int = Field(default=16, ge=1, description="images drawn together")
    keep_images: int = Field(default=12, ge=0, description="prompts whose images are kept as PNG")


@dataclass(frozen=True)
class ScoredImages:
    """What came out."""

    table: pa.Table
    """A row per method, prompt and seed, with plan_id, the scores and the reward."""
    plans: Mapping[Key, MergePlan]
    """(method, prompt id) → the plan that was compared; of an oracle, that of the first seed."""
    images: Mapping[Key, Path]
    """(method, prompt id) → its picture of the first seed, for the prompts in `shown`."""
    shown: tuple[EvaluationPrompt, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Prompt id → why no method was compared on it."""
    drawn: int = 0
    """Pictures drawn now; the others were found finished."""


def evaluate(
    prompts: Sequence[EvaluationPrompt],
    bench: Bench,
    folder: Path,
    config: EvaluationConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoredImages:
    """Draw and score all methods, prompts and seeds; write `results.parquet` and `plans.json`.

    Args:
        prompts: what is drawn.
        bench: how plans are made, drawn and scored.
        folder: where parts, images and results are kept; a second run goes on from there.
        config: which methods and seeds.
        on_progress: called with (finished pictures, all pictures).
    """
    run = _Run(prompts, bench, folder, config or EvaluationConfig())
    run.make_plans()
    run.draw(on_progress)
    run.choose()
    result = run.result()
    _write(result, folder)
    return result


def evenly(prompts: Sequence[EvaluationPrompt], count: int) -> list[EvaluationPrompt]:
    """Return `count` of the prompts, spread over the whole set."""
    count = min(count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


class _Run:
    """One evaluation, step by step."""

    def __init__(
        self,
        prompts: Sequence[EvaluationPrompt],
        bench: Bench,
        folder: Path,
        config: EvaluationConfig,
    ) -> None:
        self.prompts = {prompt.id: prompt for prompt in prompts}
        self.bench, self.config = bench, config
        self.store = ScoreStore(folder, bench.identity, bench.scores)
        self.candidates: dict[Key, Sequence[MergePlan]] = {}
        self.chosen: dict[Key, Mapping[int, MergePlan]] = {}  # for each seed
        self.left_out: dict[str, str] = {}
        self.failed: dict[str, str] = {}  # plan id → why it cannot be drawn
        self.shown: list[EvaluationPrompt] = []
        self.drawn = 0

    def make_plans(self) -> None:
        """Ask every method for its plans; a prompt that nothing can be planned for is left out."""
        for prompt in self.prompts.values():
            try:
                made = {
                    (method, prompt.id): self.bench.make_plans(method, prompt)
                    for method in self.config.methods
                }
            except (InputError, PlanError) as error:
                self.left_out[prompt.id] = str(error)
                continue
            self.candidates.update(made)
        planned = [prompt for prompt in self.prompts.values() if prompt.id not in self.left_out]
        self.shown = evenly(planned, self.config.keep_images)

    def draw(self, on_progress: Callable[[int, int], None] | None) -> None:
        """Draw and score what is not there yet, plan by plan: a plan is merged once."""
        keep = {prompt.text for prompt in self.shown}
        wanted: dict[Job, MergePlan] = {}
        for (_, prompt_id), plans in self.candidates.items():
            for plan in plans:
                for seed in self.config.seeds:
                    wanted[Job(plan.id, self.prompts[prompt_id].text, seed)] = plan
        groups: dict[str, list[Job]] = {}
        for job in wanted:
            if job not in self.store or (self._is_kept(job, keep) and not self._has_image(job)):
                groups.setdefault(job.plan_id, []).append(job)
        finished = len(wanted) - sum(map(len, groups.values()))
        report = on_progress or (lambda done, total: None)
        report(finished, len(wanted))
        try:
            for jobs in groups.values():
                for start in range(0, len(jobs), self.config.batch):
                    batch = jobs[start : start + self.config.batch]
                    if not self._draw_batch(wanted[batch[0]], batch, keep):
                        break
                    report(finished + self.drawn, len(wanted))
        finally:
            self.store.flush()  # an interrupted run keeps what it has

    def _draw_batch(self, plan: MergePlan, batch: Sequence[Job], keep: set[str]) -> bool:
        """Draw and score pictures of one plan; returns whether that was possible."""
        prompts = [job.prompt for job in batch]
        try:
            images = self.bench.render(plan, prompts, [job.seed for job in batch])
        except (ExpertError, PlanError) as error:  # one bad expert never ends a run
            self.failed[plan.id] = str(error)
            log.warning("plan %s cannot be drawn: %s", plan.id, error)
            return False
        scores = self.bench.score(images, prompts)
        for job, image, values in zip(batch, images, scores, strict=True):
            if self._is_kept(job, keep):
                save_png(self.store.image(job), as_image(image, plan), plan, job.prompt, job.seed)
            self.store.add(job, values.tolist())
        self.drawn += len(batch)
        return True

    def choose(self) -> None:
        """Take each method's plan for each prompt: of several, the one that earns most.

        What is chosen by its reward is judged on another seed, where there is one.
        """
        for key, plans in self.candidates.items():
            drawn = [plan for plan in plans if self._is_drawn(plan, key)]
            if drawn:
                self.chosen[key] = {seed: self._best(drawn, key, seed) for seed in self.seeds}
        for prompt_id in self.prompts:
            missing = [name for name in self.config.methods if (name, prompt_id) not in self.chosen]
            if missing and prompt_id not in self.left_out:
                plans = [plan for name in missing for plan in self.candidates[name, prompt_id]]
                reasons = sorted({self.failed.get(plan.id, "no plan") for plan in plans})
                self.left_out[prompt_id] = f"{', '.join(missing)}: {'; '.join(reasons)}"

    def result(self) -> ScoredImages:
        """Return the rows of all prompts that every method was drawn for: the rows are paired."""
        chosen = {key: own for key, own in self.chosen.items() if key[1] not in self.left_out}
        plans = {key: own[self.seeds[0]] for key, own in chosen.items()}
        if not plans:
            example = next(iter(self.left_out.items()), ("", "there are no prompts"))
            raise InputError(f"no prompt could be evaluated; {example[0]}: {example[1]}")
        names = self.bench.scores
        rows = [
            {
                "method": key[0],
                "prompt_id": key[1],
                "prompt": job.prompt,
                "seed": job.seed,
                "plan_id": job.plan_id,
                **dict(zip(names, self.store.scores(job), strict=True)),
            }
            for key, own in chosen.items()
            for job in (self._job(plan, key, seed) for seed, plan in own.items())
        ]
        rewards = self.bench.reward(tensor([[row[name] for name in names] for row in rows]))
        table = pa.Table.from_pylist(rows).append_column(
            "reward", pa.array(rewards.double().numpy())
        )
        shown = tuple(prompt for prompt in self.shown if prompt.id not in self.left_out)
        ids = {prompt.id for prompt in shown}
        images = {
            key: self.store.image(self._job(plan, key, self.seeds[0]))
            for key, plan in plans.items()
            if key[1] in ids
        }
        return ScoredImages(table, plans, images, shown, self.left_out, self.drawn)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.config.seeds

    def _job(self, plan: MergePlan, key: Key, seed: int) -> Job:
        return Job(plan.id, self.prompts[key[1]].text, seed)

    def _is_drawn(self, plan: MergePlan, key: Key) -> bool:
        return all(self._job(plan, key, seed) in self.store for seed in self.seeds)

    def _best(self, plans: Sequence[MergePlan], key: Key, judged: int) -> MergePlan:
        """Return the plan that earns most on the other seeds, of equals the first."""
        if len(plans) == 1:
            return plans[0]
        others = [seed for seed in self.seeds if seed != judged] or [judged]
        scores = [
            [self.store.scores(self._job(plan, key, own)) for own in others] for plan in plans
        ]
        earned = self.bench.reward(tensor(scores).flatten(0, 1)).view(len(plans), -1).mean(1)
        return plans[int(earned.argmax())]

    def _is_kept(self, job: Job, keep: set[str]) -> bool:
        return job.seed == self.config.seeds[0] and job.prompt in keep

    def _has_image(self, job: Job) -> bool:
        return self.store.image(job).is_file()


def _write(result: ScoredImages, folder: Path) -> None:
    with new_file(folder / "results.parquet") as part:
        pq.write_table(result.table, part)
    plans = [
        {"method": method, "prompt_id": prompt_id, "plan": plan.model_dump(mode="json")}
        for (method, prompt_id), plan in result.plans.items()
    ]
    record = {"plans": plans, "left_out": dict(result.left_out)}
    write_text(folder / "plans.json", json.dumps(record, indent=1))
