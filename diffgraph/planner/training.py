"""How does the planner get good? By trying plans on real images, and going on where it was killed.

DiffGraph section 3.3 (https://arxiv.org/abs/2603.20470). The loop knows nothing of images: it
asks `rollouts` for the rewards of plans, and records what it learns. Everything that it draws
comes from one generator, and a checkpoint holds that too, so a run that was killed ends with the
same planner, bit for bit, as one that was not.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.artifacts import new_folder
from diffgraph.errors import InputError, MissingInput
from diffgraph.foreign_files import parse_json, read_foreign
from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.planner.planner import Chosen, Planner, PlannerConfig
from diffgraph.planner.search import PolicyGradient, SearchConfig
from diffgraph.planner.subgraph import Subgraph, activate
from diffgraph.planner.vgae import VGAE, VGAEConfig
from diffgraph.version import version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffgraph.graph.snapshot import GraphSnapshot

log = logging.getLogger(__name__)

Rollouts = Callable[[Sequence[MergePlan], Sequence[str], Sequence[int]], Sequence[float] | Tensor]
"""(plans, prompts, seeds), one image each → their rewards; NaN for one that could not be drawn."""

SEEDS = 2**31 - 1
STATE, PROGRESS = "state.safetensors", "progress.json"
KEPT_CHECKPOINTS = 2
MOST_BYTES, MOST_VALUES = 1 << 30, 1 << 24  # of a checkpoint's record, which holds every prompt


class TrainingConfig(BaseModel, frozen=True, extra="forbid"):
    """How a planner is trained. `steps` times `prompts` times `search.samples` images are drawn."""

    steps: int = Field(default=100, ge=1, description="batches of rewards")
    prompts: int = Field(default=8, ge=1, description="prompts a batch")
    normalisation: Normalisation = "strength"
    seed: int = 0
    validate_every: int = Field(default=25, ge=1, description="steps between validations")
    validation_seeds: int = Field(default=1, ge=1, description="images a validation prompt")
    checkpoint_every: int = Field(default=10, ge=1, description="steps between checkpoints")
    search: SearchConfig = SearchConfig()
    vgae: VGAEConfig = VGAEConfig()


@dataclass(frozen=True)
class TrainingPrompt:
    """A prompt with the experts chosen for it: what the planner practises on."""

    text: str
    refs: tuple[str, ...]
    embedding: "NDArray[np.float32]"  # (384,), a unit vector

    @classmethod
    def of(cls, selection: Chosen, embedding: "NDArray[np.float32]") -> "TrainingPrompt":
        """Return the training prompt that a selection makes."""
        return cls(selection.prompt, tuple(selection.refs), embedding)


class StepRecord(BaseModel, frozen=True, extra="forbid"):
    """What one step of training found out."""

    step: int
    steps: int
    reward: float = Field(description="mean of the plans tried")
    spread: float = Field(description="deviation of rewards among the plans of one prompt")
    entropy: float
    divergence: float
    gradient_norm: float
    learning_rate: float
    validation: float | None = Field(
        default=None, description="mean reward of the expected plans on the validation prompts"
    )


def train(
    snapshot: "GraphSnapshot",
    prompts: Sequence[TrainingPrompt],
    rollouts: Rollouts,
    config: TrainingConfig,
    folder: Path,
    on_step: Callable[[StepRecord], None] | None = None,
    validation: Sequence[TrainingPrompt] = (),
) -> Planner:
    """Train a planner, save it in `folder` and return it.

    With validation prompts, the planner that was best on them is kept, the untrained one included;
    without, the last one. A second call with the same arguments goes on from the last checkpoint.

    Args:
        snapshot: the graph.
        prompts: to practise on; those without experts are left out.
        rollouts: draws and scores plans.
        config: how.
        folder: where the planner and its checkpoints go.
        on_step: told after each step; after a restart, of the steps to come only.
        validation: prompts, disjoint from `prompts`.

    Raises:
        InputError: no prompt has experts.
        StorageError: the folder cannot be written.
    """
    run = _Run(snapshot, prompts, rollouts, config, folder, validation)
    run.resume()
    while run.step < config.steps:
        record = run.advance()
        if on_step is not None:
            on_step(record)
    return run.finish()


class Progress(BaseModel, frozen=True, extra="forbid"):
    """How far a training was at a checkpoint, beside the state of its search."""

    identity: dict[str, Any] = Field(description="what must be equal for it to be this training")
    best: float | None
    untrained: float | None
    records: tuple[StepRecord, ...]


def history(folder: Path) -> list[StepRecord]:
    """Return the steps of the training in a folder, as far as its last checkpoint knows."""
    for checkpoint in reversed(_checkpoints(folder)):
        try:
            return list(_progress(checkpoint).records)
        except (ValueError, MissingInput) as error:
            log.warning("checkpoint %s cannot be read: %s", checkpoint, error)
    return []


def has_learnt(folder: Path) -> bool:
    """Return whether the training in a folder took a step that drew something: it may be used."""
    return any(math.isfinite(record.reward) for record in history(folder))


class _Run:
    """One training, step by step."""

    def __init__(
        self,
        snapshot: "GraphSnapshot",
        prompts: Sequence[TrainingPrompt],
        rollouts: Rollouts,
        config: TrainingConfig,
        folder: Path,
        validation: Sequence[TrainingPrompt],
    ) -> None:
        found = (_subgraph(snapshot, prompt) for prompt in prompts)
        self.graphs = [graph for graph in found if graph.refs]
        if not self.graphs:
            raise InputError("no training prompt has an expert to plan: nothing can be learnt")
        kept_back = (_subgraph(snapshot, prompt) for prompt in validation)
        self.trials = [graph for graph in kept_back if graph.refs]
        self.rollouts, self.config, self.folder = rollouts, config, folder
        self.snapshot_id, self.family = snapshot.id, snapshot.family
        self.scores = snapshot.score_names
        self._begin()

    def _begin(self) -> None:
        generator = torch.Generator().manual_seed(self.config.seed)
        self.vgae = VGAE(self.config.vgae, generator, len(self.scores))
        self.search = PolicyGradient(self.vgae, self.config.search, self.config.steps, generator)
        self.records: list[StepRecord] = []
        self.best: float | None = None
        self.best_state: dict[str, Tensor] = {}
        self.untrained: float | None = None

    @property
    def step(self) -> int:
        return len(self.records)

    def resume(self) -> None:
        """Go on from the last checkpoint of the same training, if there is one."""
        for checkpoint in reversed(_checkpoints(self.folder)):
            try:
                kept = _progress(checkpoint)
                if kept.identity != self._identity():
                    log.info("checkpoint %s is of another training, and goes", checkpoint)
                    shutil.rmtree(checkpoint, ignore_errors=True)
                    continue
                self._go_on(kept, load_file(checkpoint / STATE))
            except (
                OSError,
                ValueError,
                KeyError,
                RuntimeError,
                SafetensorError,
                MissingInput,
            ) as e:
                self._begin()  # it may have got half-way
                aside = _set_aside(checkpoint)
                log.warning("checkpoint %s is damaged and now %s: %s", checkpoint, aside.name, e)
                continue
            log.info("training goes on from step %d", self.step)
            return
        self._start_over()

    def _go_on(self, kept: Progress, state: dict[str, Tensor]) -> None:
        self.search.load_state(state)
        self.records = list(kept.records)
        self.best, self.untrained = kept.best, kept.untrained
        self.best_state = {
            name.removeprefix("best."): value
            for name, value in state.items()
            if name.startswith("best.")
        }
        if self.best is not None:
            network = VGAE(self.config.vgae, torch.Generator(), len(self.scores))
            network.load_state_dict(self.best_state)

    def advance(self) -> StepRecord:
        """Take one step, validate when it is time, and keep a checkpoint when it is time."""
        config = self.config
        chosen = self._draw_prompts()
        graphs = [self.graphs[place] for place in chosen]
        seeds = torch.randint(SEEDS, (len(graphs),), generator=self.search.generator).tolist()
        proposal = self.search.ask(graphs)
        tried = proposal.plans(config.normalisation)
        count = config.search.samples
        rewards = self._rewards(
            [plan for plans in tried for plan in plans],
            [graph.prompt for graph in graphs for _ in range(count)],
            [seed for seed in seeds for _ in range(count)],  # one seed a prompt: see search.py
        )
        lesson = self.search.tell(proposal, rewards.reshape(len(graphs), count))
        step = self.step + 1
        due = step % config.validate_every == 0 or step == config.steps
        value = self._validate() if due and self.trials else None
        record = StepRecord(step=step, steps=config.steps, validation=value, **lesson.numbers())
        self.records.append(record)
        if step % config.checkpoint_every == 0 or step == config.steps:
            self._checkpoint()
        return record

    def finish(self) -> Planner:
        """Return the planner to use, saved."""
        if self.best_state:
            self.vgae.load_state_dict(self.best_state)
        rewards = [record.reward for record in self.records if math.isfinite(record.reward)]
        tail = rewards[-max(len(rewards) // 10, 1) :]
        metrics = {"reward_first": rewards[0], "reward_last": sum(tail) / len(tail)} if tail else {}
        if self.best is not None and self.untrained is not None:
            metrics |= {"validation": self.best, "validation_untrained": self.untrained}
        config = PlannerConfig(
            family=self.family,
            snapshot=self.snapshot_id,
            scores=self.scores,
            normalisation=self.config.normalisation,
            vgae=self.config.vgae,
            seed=self.config.seed,
            code_version=version(),
            training=self.config.model_dump(mode="json"),
            metrics=metrics,
        )
        planner = Planner(config, self.vgae)
        planner.save(self.folder)
        return planner

    def _start_over(self) -> None:
        if self.trials:
            self.untrained = self._validate()

    def _draw_prompts(self) -> list[int]:
        """Return prompts for a step: all in turn, in an order drawn anew each time round."""
        size = min(self.config.prompts, len(self.graphs))
        start = self.step * size
        drawn: list[int] = []
        for place in range(start, start + size):
            turn, offset = divmod(place, len(self.graphs))
            shuffle = torch.Generator().manual_seed(self.config.seed * 1_000_003 + turn)
            order = torch.randperm(len(self.graphs), generator=shuffle)
            drawn.append(int(order[offset]))
        return drawn

    def _validate(self) -> float:
        """Return the mean reward of the expected plans, and keep the planner if it is the best."""
        planner = Planner(
            PlannerConfig(
                family=self.family,
                snapshot=self.snapshot_id,
                scores=self.scores,
                vgae=self.config.vgae,
            ),
            self.vgae,
        )
        plans = planner.plans(self.trials, self.config.normalisation)
        seeds = range(self.config.validation_seeds)
        rewards = self._rewards(
            [plan for plan in plans for _ in seeds],
            [graph.prompt for graph in self.trials for _ in seeds],
            [SEEDS - seed for _ in self.trials for seed in seeds],
        )
        value = float(rewards.nanmean())
        if math.isfinite(value) and (self.best is None or value > self.best):
            self.best = value
            self.best_state = {
                name: weight.detach().clone() for name, weight in self.vgae.state_dict().items()
            }
        return value

    def _rewards(
        self, plans: Sequence[MergePlan], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        rewards = torch.as_tensor(self.rollouts(plans, prompts, seeds), dtype=torch.float32)
        if rewards.shape != (len(plans),):
            raise ValueError(f"rollouts gave {tuple(rewards.shape)} rewards for {len(plans)} plans")
        return rewards.cpu()

    def _checkpoint(self) -> None:
        state = self.search.state()
        state |= {f"best.{name}": value.contiguous() for name, value in self.best_state.items()}
        progress = Progress(
            identity=self._identity(),
            best=self.best,
            untrained=self.untrained,
            records=tuple(self.records),
        )
        place = self.folder / "checkpoints" / f"{self.step:08d}"
        with new_folder(place, replace=True) as part:
            save_file(state, part / STATE)
            told = json.dumps(progress.model_dump())  # a reward may be NaN, which pydantic drops
            (part / PROGRESS).write_text(told, encoding="utf-8")
        for old in _checkpoints(self.folder)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def _identity(self) -> dict[str, Any]:
        """Return what must be equal for a checkpoint to be of this training."""
        return {
            "snapshot": self.snapshot_id,
            "config": self.config.model_dump(mode="json"),
            "prompts": [[graph.prompt, *graph.refs] for graph in self.graphs],
            "validation": [[graph.prompt, *graph.refs] for graph in self.trials],
        }


def _subgraph(snapshot: "GraphSnapshot", prompt: TrainingPrompt) -> Subgraph:
    known = set(snapshot.calibrated)  # nothing is learnt of who is not measured yet
    refs = [ref for ref in prompt.refs if ref in known]
    return activate(snapshot, refs, prompt.embedding, prompt.text)


def _checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a training, oldest first."""
    return sorted(file.parent for file in (folder / "checkpoints").glob(f"[0-9]*/{PROGRESS}"))


def _progress(checkpoint: Path) -> Progress:
    """Return what a checkpoint says; raises `ValueError` or `MissingInput` if it is damaged."""
    told = parse_json(read_foreign(checkpoint / PROGRESS, MOST_BYTES), MOST_VALUES)
    progress = Progress.model_validate(told)
    steps = [record.step for record in progress.records]
    if steps != list(range(1, int(checkpoint.name) + 1)):
        raise ValueError(f"it records {len(steps)} steps")
    return progress


def _set_aside(checkpoint: Path) -> Path:
    """Give a damaged checkpoint a name that no training goes on from."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    return aside
