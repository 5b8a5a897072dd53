"""How are tens of thousands of merged images drawn in a minute?

The product merges and draws one plan at a time, exactly. Here many prompts share each plan: every
expert's update lies dense on the device, a plan is one in-place write of the live weights, and the
whole sampling loop is recorded once as a CUDA graph and replayed. The arithmetic is the product's
own (DDIM without noise on the family's schedule, guidance, decoding); a test holds the two side by
side.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import DenseUpdate
from diffgraph.families.family import SamplerConfig
from diffgraph.families.stable_diffusion import StableDiffusion
from diffgraph.merging.apply import Merger
from diffgraph.merging.batched import rollouts
from recipes.emoji64.live_weights import LiveWeights, Updates
from recipes.emoji64.loop import recorded

log = logging.getLogger(__name__)


class ImageSampler:
    """A base model with the experts' dense updates: writes a plan, draws a batch of prompts."""

    def __init__(
        self,
        model: StableDiffusion,
        updates: Mapping[str, Updates],
        batch: int,
        sampler: SamplerConfig | None = None,
    ):
        self.model, self.updates, self.batch = model, updates, batch
        self.sampler = sampler or model.sampler
        self.weights = LiveWeights(model.parameters())
        self.reads_text = any(
            name.startswith("text_encoder.") for own in updates.values() for name in own
        )
        self.steps = self._schedule()
        self._replay: Callable[[], Tensor] | None = None

    def write(self, plan: Mapping[str, float]) -> None:
        """Set the weights to the base plus each named expert's update times its coefficient."""
        for slug in plan:
            if slug not in self.updates:
                raise KeyError(f"no expert {slug!r}; known: {', '.join(sorted(self.updates))}")
        self.weights.write([(part, self.updates[slug]) for slug, part in plan.items()])

    def draw(self, prompts: Sequence[str], noise: Tensor) -> Tensor:
        """Return images of at most `batch` prompts by the weights as they are: uint8."""
        context = self.context(prompts)
        return self.draw_from(context, noise)

    def context(self, prompts: Sequence[str]) -> Tensor:
        """Return the blank and the prompts' states one after the other: (2, n, tokens, width)."""
        states = self.model.conditioning(prompts, self.sampler)
        return torch.stack([states["negative_prompt_embeds"], states["prompt_embeds"]])

    def draw_plans(
        self, prompt: str, plans: Sequence[Mapping[str, float]], noise: Tensor
    ) -> Tensor:
        """Return each plan's images of one prompt, one from each first noise; leave the base.

        A GPU replays its graph for one plan after the other. A CPU is twice as fast when plans
        share a batch.

        Args:
            prompt: what is drawn.
            plans: coefficients by slug.
            noise: (n, 4, 16, 16), n at most `batch`.

        Returns:
            (plans, n, 3, 64, 64), uint8.
        """
        if self.model.device.type == "cuda" or self.reads_text:
            parts = []
            for plan in plans:
                self.write(plan)
                parts.append(self.draw([prompt] * len(noise), noise))
            self.write({})
            return torch.stack(parts)
        self.write({})
        pairs = [(plan, place) for plan in plans for place in range(len(noise))]
        parts = []
        for start in range(0, len(pairs), self.batch):
            some = pairs[start : start + self.batch]
            with rollouts(self._merger, [plan for plan, _ in some], self._deltas):
                places = [place for _, place in some]
                parts.append(self.draw([prompt] * len(some), noise[places]))
        return torch.cat(parts).view(len(plans), len(noise), *parts[0].shape[1:])

    @cached_property
    def _merger(self) -> Merger:
        return Merger(self.model)

    @cached_property
    def _deltas(self) -> dict[str, Delta]:
        return {
            slug: Delta(
                {name: DenseUpdate(value) for name, value in own.items()}, "dense", Coverage()
            )
            for slug, own in self.updates.items()
        }

    @torch.no_grad()
    def draw_from(self, context: Tensor, noise: Tensor) -> Tensor:
        """Return images from states (2, n, tokens, width) and first noise (n, 4, 16, 16): uint8."""
        count = noise.shape[0]
        if self.model.device.type != "cuda":
            return self._sample(context.flatten(0, 1), noise)
        if self._replay is None:
            self._record(context, noise)
        assert self._replay is not None
        self._context.view(2, self.batch, *context.shape[2:])[:, :count].copy_(context)
        self._noise[:count].copy_(noise)
        return self._replay()[:count].clone()

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return first noise (count, 4, 16, 16), drawn on the device."""
        config = self.model.unet.config
        shape = (count, config.in_channels, config.sample_size, config.sample_size)
        return torch.randn(shape, generator=generator, device=self.model.device)

    def _schedule(self) -> list[tuple[Tensor, float, float]]:
        """Return, for each step, the time and the signal levels before and after it."""
        from copy import deepcopy

        scheduler = deepcopy(self.model.scheduler)
        scheduler.set_timesteps(self.sampler.steps)
        levels = scheduler.alphas_cumprod.double()
        stride = scheduler.config.num_train_timesteps // self.sampler.steps
        steps = []
        for time in scheduler.timesteps.tolist():
            after = levels[time - stride] if time >= stride else scheduler.final_alpha_cumprod
            moment = torch.full((2 * self.batch,), time, device=self.model.device)
            steps.append((moment, float(levels[time]), float(after)))
        return steps

    def _sample(self, context: Tensor, noise: Tensor) -> Tensor:
        """Denoise and decode; the update of DDIM for a velocity, section 3 of 2202.00512."""
        latents = noise
        for moment, before, after in self.steps:
            signal, spread = before**0.5, (1 - before) ** 0.5
            both = torch.cat([latents, latents])
            free, guided = self.model.unet(both, moment[: len(both)], context, return_dict=False)[
                0
            ].chunk(2)
            velocity = free + self.sampler.guidance * (guided - free)
            clean = signal * latents - spread * velocity
            rest = signal * velocity + spread * latents
            latents = after**0.5 * clean + (1 - after) ** 0.5 * rest
        images = self.model.decode(latents)
        return (images.nan_to_num(0.0) * 255).round().to(torch.uint8)

    def _record(self, context: Tensor, noise: Tensor) -> None:
        self._context = context.new_zeros(2 * self.batch, *context.shape[2:])
        self._noise = noise.new_zeros(self.batch, *noise.shape[1:])
        self._replay = recorded(lambda: self._sample(self._context, self._noise))


def read_updates(
    paths: Mapping[str, Path], model: StableDiffusion, names: Iterable[str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return each expert's dense updates, on the model's device, by its slug.

    Args:
        paths: weight files by slug.
        model: the base they are read against.
        names: the slugs to read; None reads all.
    """
    from diffgraph.experts.reading import read_delta

    live = model.parameters()
    parameters = {name: value.detach().cpu().clone() for name, value in live.items()}
    made: dict[str, dict[str, Tensor]] = {}
    for slug in names if names is not None else paths:
        delta = read_delta(paths[slug], parameters)
        made[slug] = {
            name: update.dense().to(model.device, live[name].dtype)
            for name, update in delta.updates.items()
        }
    return made
