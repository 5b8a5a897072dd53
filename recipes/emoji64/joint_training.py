"""How do adapters learn to be merged with one another? In one model, several at a time.

An adapter that has only ever learnt alone spoils what others add: big models forgive that, one of
four million parameters does not. So at every step a combination of adapters is merged into the
base as a plan would merge them, a batch of pictures with all their treatments is denoised, and each
of them takes a step against the gradient of its own factors.

On a GPU the model's forward and backward pass is recorded once and replayed whatever is merged: a
combination is written into the live weights, and their gradients come out of the same memory every
time.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.emoji64.denoiser import TrainingData, VelocityLoss
from recipes.emoji64.factors import TrainableAdapter
from recipes.emoji64.joint_training_data import CombinationConfig, JointTrainingData
from recipes.emoji64.live_weights import LiveWeights, Updates
from recipes.emoji64.loop import (
    LoopConfig,
    LoopReport,
    learning_rate,
    measured_steps,
    recorded,
)

log = logging.getLogger(__name__)

ROUND: dict[str, Any] = {"weight_decay": 1e-3, "warmup": 0.02, "average": 0.0, "seed": 41}
LEAST_CHECKPOINT = 0.3  # of a fine-tuned model merged under a combination; at most all of it


@dataclass(frozen=True)
class JointConfig:
    """How adapters learn together: in rounds, each with a warm-up and a decay of its own."""

    combinations: CombinationConfig = field(default_factory=CombinationConfig)
    rounds: tuple[LoopConfig, ...] = (
        LoopConfig(steps=8212, learning_rate=2e-3, **ROUND),
        LoopConfig(steps=8740, learning_rate=4e-3, **ROUND),
    )
    batch: int = 224


@dataclass(frozen=True)
class AdapterGroup:
    """The adapters that are trained together, and the fine-tuned models under them."""

    adapters: Mapping[str, TrainableAdapter]  # by slug
    strengths: Mapping[str, float]  # the coefficient that each is merged with, by slug
    checkpoints: Mapping[str, Updates]  # of fine-tuned models, by slug; they do not learn

    def merged(self, slug: str) -> tuple[float, dict[str, Tensor]]:
        """Return the coefficient of an adapter and its updates, with gradients to its factors."""
        return self.strengths[slug], self.adapters[slug].updates()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for own in self.adapters.values():
            for leaf in own.parameters():
                leaf.grad = None


class MergedModel:
    """A UNet that combinations are written into, with the gradients of what they change."""

    def __init__(
        self, unet: Any, text_encoder: Any, data: TrainingData, batch: int, names: Sequence[str]
    ) -> None:
        """Take over a UNet.

        Args:
            unet: the base's.
            text_encoder: the base's.
            data: on the UNet's device.
            batch: pictures a step.
            names: the weights whose gradients are wanted, by our names.
        """
        unet.requires_grad_(False)
        self.device = data.latents.device
        if self.device.type == "cuda":
            unet.to(memory_format=torch.channels_last)
        self.weights = LiveWeights(
            {f"unet.{name}": value for name, value in unet.named_parameters()}
        )
        self.names = tuple(names)
        self.wanted = [self.weights.live[name].requires_grad_(True) for name in self.names]
        self.generator = torch.Generator(self.device)  # one: a recorded pass keeps to its own
        self.loss = VelocityLoss(unet, text_encoder, data, batch)
        self.batch = batch
        self.window = torch.zeros(2, device=self.device)  # first picture, pictures
        self._replay: Callable[[], tuple[Tensor, tuple[Tensor, ...]]] | None = None

    def gradients(self, window: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on pictures of a window, and its gradients by weight.

        On a GPU both lie in memory that the next call writes again.
        """
        self.window.copy_(torch.tensor(window, dtype=torch.float32))
        if self.device.type != "cuda":
            loss, found = self._step()
        else:
            if self._replay is None:
                self._replay = recorded(self._step, self.generator)
            loss, found = self._replay()
        return loss, dict(zip(self.names, found, strict=True))

    def _step(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        share = torch.rand(self.batch, generator=self.generator, device=self.device)
        index = (self.window[0] + (share * self.window[1]).floor()).long()
        loss = self.loss.of(index, self.generator)
        return loss.detach(), torch.autograd.grad(loss, self.wanted)


def train_together(
    unet: Any,
    text_encoder: Any,
    adapter_group: AdapterGroup,
    joint: JointTrainingData,
    config: JointConfig,
) -> list[LoopReport]:
    """Train adapters in combinations, in place; return what each round did.

    Args:
        unet: the base's; its weights change while this runs.
        text_encoder: the base's.
        adapter_group: the adapters to train.
        joint: the combinations and their pictures.
        config: how.
    """
    data = joint.data.to(next(unet.parameters()).device)
    names = sorted({name for own in adapter_group.adapters.values() for name in own.parts})
    model = MergedModel(unet, text_encoder, data, config.batch, names)
    reports = [
        _round(model, adapter_group, joint, loop, f"round {number} of {len(config.rounds)}")
        for number, loop in enumerate(config.rounds, 1)
    ]
    model.weights.write([])
    return reports


def _round(
    model: MergedModel,
    adapter_group: AdapterGroup,
    joint: JointTrainingData,
    config: LoopConfig,
    name: str,
) -> LoopReport:
    model.generator.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)

    def merged_step(number: int, checkpoint_part: float) -> Tensor:
        """Merge a combination, and leave the gradients of its factors where they learn."""
        combination = joint.combinations[number]
        made = [adapter_group.merged(slug) for slug in combination.adapters]
        checkpoint = (
            []
            if combination.checkpoint is None
            else [(checkpoint_part, adapter_group.checkpoints[combination.checkpoint.slug])]
        )
        model.weights.write([*checkpoint, *made])
        loss, gradients = model.gradients(joint.windows[number])
        torch.autograd.backward(
            [value for _, own in made for value in own.values()],
            [gradients[name] * strength for strength, own in made for name in own],
        )
        return loss

    steps = config.steps or measured_steps(
        lambda: float(merged_step(int(rng.integers(len(joint.combinations))), 1.0)),
        config,
        model.device,
    )
    adapter_group.zero_grad()
    shares = np.array([combination.share for combination in joint.combinations])
    due = rng.choice(len(joint.combinations), size=steps, p=shares / shares.sum())
    parts = rng.uniform(LEAST_CHECKPOINT, 1.0, size=steps)
    learners = {
        slug: torch.optim.AdamW(
            own.parameters(),
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=model.device.type == "cuda",
        )
        for slug, own in adapter_group.adapters.items()
    }
    losses, started = [], time.perf_counter()
    noted = max(1, steps // 100)
    for step, number in enumerate(due.tolist()):
        loss = merged_step(number, float(parts[step]))
        for slug in joint.combinations[number].adapters:
            torch.nn.utils.clip_grad_norm_(
                adapter_group.adapters[slug].parameters(), 1.0, foreach=True
            )
            for group in learners[slug].param_groups:
                group["lr"] = learning_rate(step, steps, config)
            learners[slug].step()
        adapter_group.zero_grad()
        if step % noted == 0 or step == steps - 1:
            losses.append(float(loss))
        if step % (5 * noted) == 0:
            recent = float(np.mean(losses[-10:]))
            seconds = time.perf_counter() - started
            log.info("%s: step %d of %d, loss %.4f, %.0f s", name, step, steps, recent, seconds)
    return LoopReport(steps, time.perf_counter() - started, tuple(losses))
