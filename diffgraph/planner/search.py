"""Which plans should be tried next, and what do their rewards teach? Policy gradient, ask and tell.

DiffGraph section 3.3, equation 4 (https://arxiv.org/abs/2603.20470). `ask` draws several plans a
prompt from the planner's Beta distributions; somebody draws and scores their images; `tell` moves
the planner towards the plans that earned more than their fellows. Drawing an image is a thousand
times dearer than an update step, so each image is made to count:

* the plans of one prompt share seed and noise, so that their rewards differ by the plan alone;
* a plan's advantage is its reward less the mean of the other plans of that prompt, which leaves the
  gradient unbiased (RLOO, https://arxiv.org/abs/2402.14740);
* the latents are drawn by reparameterisation, so that the score function is needed for the Beta
only; * one batch serves several update steps under the clipped ratio of PPO
  (https://arxiv.org/abs/1707.06347). With one step, `epochs=1`, this is equation 4 exactly.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.distributions import Beta

from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.planner.subgraph import Batch, Subgraph, collate
from diffgraph.planner.vgae import VGAE

INSIDE = 1e-3  # a sampled weight keeps off 0 and 1, where its density may be zero or infinite


class SearchConfig(BaseModel, frozen=True, extra="forbid"):
    """How the planner learns from rewards."""

    samples: int = Field(default=4, ge=2, description="plans tried a prompt and update")
    epochs: int = Field(default=2, ge=1, description="update steps a batch of rewards")
    clip: float = Field(default=0.2, gt=0, description="how far a batch may move a probability")
    learning_rate: float = Field(default=1e-2, gt=0)
    last_learning_rate: float = Field(default=1e-3, gt=0, description="cosine decay ends here")
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=1e-2, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0, description="longer gradients are cut")
    divergence: float = Field(default=1e-3, ge=0, description="weight of the latents' KL, in nats")
    entropy: float = Field(default=3e-3, ge=0, description="weight of the Betas' entropy, in nats")


@dataclass(frozen=True)
class Proposal:
    """Plans to try: `samples` a subgraph."""

    subgraphs: tuple[Subgraph, ...]
    batch: Batch
    noise: Tensor  # (samples, prompts + experts, latent), what the latents were drawn with
    weights: Tensor  # (samples, experts), in (0, 1)
    log_probabilities: Tensor  # (samples, prompts), when they were drawn

    def plans(self, normalisation: Normalisation) -> list[list[MergePlan]]:
        """Return the plans: for each subgraph, `samples` of them."""
        parts = torch.split(self.weights, [len(graph.refs) for graph in self.subgraphs], dim=1)
        return [
            [graph.plan(row, normalisation) for row in part.tolist()]
            for graph, part in zip(self.subgraphs, parts, strict=True)
        ]


@dataclass(frozen=True)
class Lesson:
    """What one batch of rewards taught."""

    reward: float  # mean of the batch
    spread: float  # mean deviation of rewards within a prompt: what there is to learn from
    entropy: float  # mean of the Betas, in nats
    divergence: float  # mean KL of the latents, in nats
    gradient_norm: float
    learning_rate: float

    def numbers(self) -> Mapping[str, float]:
        """Return the numbers by name, for whoever records them."""
        return dict(vars(self))


class PolicyGradient:
    """Improves a VGAE by asking for plans and being told their rewards."""

    def __init__(
        self, vgae: VGAE, config: SearchConfig, updates: int, generator: torch.Generator
    ) -> None:
        """Start a search.

        Args:
            vgae: improved in place.
            config: how.
            updates: how many times `tell` will be called: the learning rate decays over them.
            generator: of all that is drawn.
        """
        self.vgae = vgae
        self.config = config
        self.updates = updates
        self.generator = generator
        self.told = 0
        self.optimizer = torch.optim.AdamW(
            vgae.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    def ask(self, subgraphs: Sequence[Subgraph]) -> Proposal:
        """Return plans to try for some prompts; each subgraph must have an expert."""
        if not all(graph.refs for graph in subgraphs):
            raise ValueError("a subgraph without experts has only one plan: nothing to search")
        batch = collate(subgraphs)
        with torch.no_grad():
            latent = self.vgae.encode(batch)
            noise = torch.randn((self.config.samples, *latent.mean.shape), generator=self.generator)
            beta: Any = self.vgae.decode(latent.drawn(noise), batch)
            weights = sample_beta(beta, self.generator)
            log_probabilities = _a_plan(beta.log_prob(weights), batch)
        return Proposal(tuple(subgraphs), batch, noise, weights, log_probabilities)

    def tell(self, proposal: Proposal, rewards: Tensor) -> Lesson:
        """Learn from the rewards of a proposal's plans.

        Args:
            proposal: from `ask`.
            rewards: (prompts, samples); NaN for a plan that could not be tried.
        """
        advantages = leave_one_out(rewards).T  # (samples, prompts)
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for _ in range(self.config.epochs):
            entropy, divergence, norm = self._update(proposal, advantages)
        self.told += 1
        known = ~rewards.isnan()
        return Lesson(
            reward=float(rewards[known].mean()) if known.any() else math.nan,
            spread=float(_spread_within(rewards)),
            entropy=entropy,
            divergence=divergence,
            gradient_norm=norm,
            learning_rate=rate,
        )

    def _update(self, proposal: Proposal, advantages: Tensor) -> tuple[float, float, float]:
        batch, config = proposal.batch, self.config
        latent = self.vgae.encode(batch)
        beta: Any = self.vgae.decode(latent.drawn(proposal.noise), batch)
        log_probabilities = _a_plan(beta.log_prob(proposal.weights), batch)
        ratio = (log_probabilities - proposal.log_probabilities).exp()
        clipped = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
        gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
        entropy = beta.entropy().mean()
        divergence = latent.divergence()
        loss = -gain - config.entropy * entropy + config.divergence * divergence
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.vgae.parameters(), config.gradient_norm)
        self.optimizer.step()
        return entropy.item(), divergence.item(), norm.item()

    def _learning_rate(self) -> float:
        first, last = self.config.learning_rate, self.config.last_learning_rate
        done = min(self.told / max(self.updates, 1), 1.0)
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * done))

    def state(self) -> dict[str, Tensor]:
        """Return all that the search needs to go on exactly as if it had not stopped."""
        state = {f"vgae.{name}": value for name, value in self.vgae.state_dict().items()}
        for name, parameter in self.vgae.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        state["told"] = torch.tensor(self.told)
        state["generator"] = self.generator.get_state()
        return {name: value.detach().clone().contiguous() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.vgae.load_state_dict(
            {
                name.removeprefix("vgae."): value
                for name, value in state.items()
                if name.startswith("vgae.")
            }
        )
        for name, parameter in self.vgae.named_parameters():
            prefix = f"optimizer.{name}."
            moments = {
                key.removeprefix(prefix): value.clone()
                for key, value in state.items()
                if key.startswith(prefix)
            }
            if moments:
                self.optimizer.state[parameter] = moments
        self.told = int(state["told"])
        self.generator.set_state(state["generator"].clone())


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return advantages (prompts, samples): reward less the mean of the prompt's other rewards.

    Divided by their deviation over the batch, so that the learning rate means the same for any
    scale of rewards. A reward that is NaN has no advantage and counts in nobody's mean.
    """
    known = ~rewards.isnan()
    values = rewards.nan_to_num(0.0).float()
    count = known.sum(dim=1, keepdim=True)
    others = (values.sum(dim=1, keepdim=True) - values) / (count - 1).clamp(min=1)
    advantages = torch.where(known & (count > 1), values - others, torch.zeros_like(values))
    scale = advantages[known].square().mean().sqrt() if known.any() else torch.tensor(0.0)
    return advantages / scale if scale > 1e-8 else torch.zeros_like(advantages)


def sample_beta(beta: Beta, generator: torch.Generator) -> Tensor:
    """Return a draw of each Beta, off its ends, from our own generator.

    `Beta.sample` draws from torch's global state, which nobody can reproduce once others use it.
    """
    first = torch._standard_gamma(beta.concentration1, generator=generator)
    second = torch._standard_gamma(beta.concentration0, generator=generator)
    return torch.as_tensor((first / (first + second)).clamp(INSIDE, 1.0 - INSIDE))


def _a_plan(log_probabilities: Tensor, batch: Batch) -> Tensor:
    """Return the log-probability of whole plans, (samples, prompts), from the experts' own."""
    plans = torch.zeros(len(log_probabilities), len(batch.users))
    return plans.index_add(1, batch.owners, log_probabilities)


def _spread_within(rewards: Tensor) -> Tensor:
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    return centred.square().nanmean(dim=1).sqrt().nanmean()
