"""What can merging gain on the bench, and how much of it can a planner earn?

Base, best single expert, the right experts merged at the strengths their pages recommend, and the
best of many random plans over the right experts, prompt by prompt. What has to be chosen (the best
single expert, the best random plan) is chosen on some seeds and judged on others, so that luck does
not count.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgraph.merging.plan import STRONGEST
from diffgraph.scoring import Reward
from recipes.emoji64.community import recipe_of
from recipes.emoji64.image_sampler import ImageSampler
from recipes.emoji64.measures import bootstrap_interval
from recipes.emoji64.proof_figures import save_rows
from recipes.emoji64.proof_inputs import BenchPrompt, ProofInputs, bench_prompts
from recipes.emoji64.truth import closeness_to, true_images

METHODS = ("base", "best single", "equal shares", "uniform", "oracle")
"""equal shares: 1/n of each kind, a softmax of equal weights. uniform: recommended strengths."""
STEPS = (("base", "best single"), ("best single", "uniform"), ("uniform", "oracle"))
SHOWN = 12
TOGETHER = 16  # images that share a forward pass on a CPU

log = logging.getLogger(__name__)

Plan = Mapping[str, float]


@dataclass(frozen=True)
class HeadroomConfig:
    """How much is drawn."""

    prompts: int | None = None  # None: the whole bench
    plans: int = 64  # random ones a prompt
    seeds: int = 3  # to choose by
    judged: int = 3  # other seeds, to judge by
    seed: int = 5


@dataclass(frozen=True)
class _Drawn:
    scores: Tensor  # (seeds, 5)
    closeness: Tensor  # (seeds,)
    image: Tensor  # (3, 64, 64), of the first seed


def prove_headroom(inputs: ProofInputs, folder: Path, config: HeadroomConfig) -> dict[str, Any]:
    """Draw and judge every method on every bench prompt."""
    prompts = bench_prompts(inputs, config.prompts)
    rng = np.random.default_rng(config.seed)
    most = max(config.seeds, config.judged)
    sampler = inputs.sampler(most if inputs.device.type == "cuda" else max(most, TOGETHER))
    chosen_by = list(range(1000, 1000 + config.seeds))
    judged_by = list(range(2000, 2000 + config.judged))
    candidates = [_candidates(prompt, config, rng) for prompt in prompts]
    trials = [
        _draw(inputs, sampler, prompt, [*singles, *plans], chosen_by, f"{number} of {len(prompts)}")
        for number, (prompt, (singles, plans)) in enumerate(zip(prompts, candidates, strict=True))
    ]
    reward = Reward.fit(torch.cat([one.scores for own in trials for one in own]))
    finals: list[dict[str, _Drawn]] = []
    for prompt, (singles, plans), own in zip(prompts, candidates, trials, strict=True):
        value = [float(reward.of(one.scores).mean()) for one in own]
        single = singles[int(np.argmax(value[: len(singles)]))]
        oracle = plans[int(np.argmax(value[len(singles) :]))]
        chosen = (dict[str, float](), single, equal_shares(prompt), recommended(prompt), oracle)
        drawn = _draw(inputs, sampler, prompt, chosen, judged_by)
        finals.append(dict(zip(METHODS, drawn, strict=True)))
    _save_examples(prompts, finals, folder)
    return _found(finals, reward, config)


def equal_shares(prompt: BenchPrompt) -> dict[str, float]:
    """Return 1/n of each kind: what a softmax gives to equal weights."""
    kinds = [recipe_of(slug).kind for slug in prompt.experts]
    return {slug: 1 / kinds.count(kind) for slug, kind in zip(prompt.experts, kinds, strict=True)}


def recommended(prompt: BenchPrompt) -> dict[str, float]:
    """Return every PEFT expert at its page's strength, checkpoints in equal shares."""
    recipes = [recipe_of(slug) for slug in prompt.experts]
    checkpoints = sum(recipe.kind == "checkpoint" for recipe in recipes)
    return {
        recipe.slug: 1 / checkpoints if recipe.kind == "checkpoint" else recipe.strength
        for recipe in recipes
    }


def random_plan(prompt: BenchPrompt, rng: np.random.Generator) -> dict[str, float]:
    """Return any strengths: PEFT experts up to `STRONGEST`, checkpoints a part of one model."""
    recipes = [recipe_of(slug) for slug in prompt.experts]
    checkpoints = [recipe.slug for recipe in recipes if recipe.kind == "checkpoint"]
    plan = {
        recipe.slug: float(rng.uniform(0, STRONGEST)) for recipe in recipes if recipe.kind == "peft"
    }
    shares = rng.dirichlet([1.0] * (len(checkpoints) + 1))[: len(checkpoints)]
    return {**dict(zip(checkpoints, map(float, shares), strict=True)), **plan}


def _candidates(
    prompt: BenchPrompt, config: HeadroomConfig, rng: np.random.Generator
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    singles = [{slug: recipe_of(slug).strength} for slug in prompt.experts]
    return singles, [random_plan(prompt, rng) for _ in range(config.plans)]


def _draw(
    inputs: ProofInputs,
    sampler: ImageSampler,
    prompt: BenchPrompt,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    place: str = "judged",
) -> list[_Drawn]:
    """Draw one prompt with several plans, an image a seed each, and judge them together."""
    log.info("headroom: %s, %s", place, prompt.text)
    noise = inputs.model.noise(seeds).to(inputs.device)
    parts = sampler.draw_plans(prompt.text, plans, noise)
    images = parts.flatten(0, 1)
    rows = torch.zeros(len(images), dtype=torch.long, device=inputs.device)
    truths = true_images(inputs.art, [prompt.composition]).take(rows)
    scores = inputs.score(images, [prompt.text] * len(images)).view(len(plans), len(seeds), -1)
    close = closeness_to(images, truths).cpu().view(len(plans), len(seeds))
    return [
        _Drawn(score, near, part[0].cpu())
        for score, near, part in zip(scores, close, parts, strict=True)
    ]


def _found(
    finals: Sequence[Mapping[str, _Drawn]], reward: Reward, config: HeadroomConfig
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(config.seed)
    rewards = {
        method: torch.stack([reward.of(own[method].scores).mean() for own in finals])
        for method in METHODS
    }
    close = {
        method: torch.stack([own[method].closeness.mean() for own in finals]) for method in METHODS
    }
    steps = {}
    for lower, upper in STEPS:
        gain = rewards[upper] - rewards[lower]
        low, high = bootstrap_interval(gain, generator)
        nearer = close[upper] - close[lower]
        steps[f"{lower} -> {upper}"] = {
            "gain": round(float(gain.mean()), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "significant": low > 0,
            "closeness_gain": round(float(nearer.mean()), 4),
        }
    return {
        "prompts": len(finals),
        "plans": config.plans,
        "seeds": config.seeds,
        "judged": config.judged,
        "reward": {name: round(float(values.mean()), 4) for name, values in rewards.items()},
        "closeness": {name: round(float(values.mean()), 4) for name, values in close.items()},
        "steps": steps,
        "images": ["headroom.png"],
    }


def _save_examples(
    prompts: Sequence[BenchPrompt], finals: Sequence[Mapping[str, _Drawn]], folder: Path
) -> None:
    step = max(1, len(prompts) // SHOWN)
    rows = {
        f"{prompt.id} {' + '.join(prompt.composition.treatments)}": torch.stack(
            [own[method].image for method in METHODS]
        )
        for prompt, own in list(zip(prompts, finals, strict=True))[::step]
    }
    save_rows(rows, 2, folder / "headroom.png", METHODS)
