"""Is every expert good at its own? Every expert on every skill, compared with the base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgraph.scoring import Reward
from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES
from recipes.emoji64.community import Recipe
from recipes.emoji64.freeform import SUBJECTS
from recipes.emoji64.proof_figures import save_heat_map
from recipes.emoji64.proof_inputs import ProofInputs
from recipes.emoji64.scorer_plans import covered
from recipes.emoji64.treatments import TREATMENTS
from recipes.emoji64.truth import Composition, closeness_to, true_images


@dataclass(frozen=True)
class SkillsConfig:
    """How much is drawn."""

    prompts: int = 24  # a skill
    batch: int = 80  # images drawn together
    seed: int = 2


@dataclass(frozen=True)
class Skill:
    """Something an expert may be good at: a treatment, a group of subjects or a style."""

    name: str
    treatment: str | None = None
    group: str | None = None
    style: str | None = None

    def is_of(self, recipe: Recipe) -> bool:
        """Say whether the expert learnt it."""
        return (
            self.treatment in recipe.treatments
            or self.group in recipe.groups
            or self.style in recipe.styles
        )


def prove_skills(inputs: ProofInputs, folder: Path, config: SkillsConfig) -> dict[str, Any]:
    """Draw every expert on every skill's prompts, with the base's own first noise."""
    skills = skills_of(inputs)
    asked = [own for skill in skills for own in _compositions(inputs, skill, config)]
    rng = np.random.default_rng(config.seed)
    prompts = [
        captions.caption(inputs.art.subjects[own.subject], own.style, list(own.treatments), rng)
        for own in asked
    ]
    names = ["base", *(recipe.slug for recipe in inputs.community)]
    scores, close = _draw_all(inputs, prompts, asked, config)
    reward = Reward.fit(scores.flatten(0, 1))
    rewards = reward.of(scores.flatten(0, 1)).view(len(names), len(skills), config.prompts)
    gains = (rewards[1:] - rewards[:1]).mean(2)
    nearer = close.view_as(rewards)
    closer = (nearer[1:] - nearer[:1]).mean(2)
    save_heat_map(gains, names[1:], [skill.name for skill in skills], folder / "specialisation.png")
    return {
        "experts": names[1:],
        "skills": [skill.name for skill in skills],
        "prompts_a_skill": config.prompts,
        "gains": _rounded(gains),
        "closeness_gains": _rounded(closer),
        **_summary(inputs, skills, gains),
        "images": ["specialisation.png"],
    }


def skills_of(inputs: ProofInputs) -> list[Skill]:
    """Return the skills of the good experts: treatments, then groups, then styles."""
    good = [recipe for recipe in inputs.community if recipe.quality == "good"]
    treatments = [name for name in TREATMENTS if name in covered(inputs.community)]
    drawn = {subject.group for subject in inputs.art.subjects}
    groups = sorted({group for recipe in good for group in recipe.groups} & drawn)
    styles = [style for style in STYLES if any(style in recipe.styles for recipe in good)]
    return [
        *(Skill(name, treatment=name) for name in treatments),
        *(Skill(name, group=name) for name in groups),
        *(Skill(name, style=name) for name in styles),
    ]


def _compositions(inputs: ProofInputs, skill: Skill, config: SkillsConfig) -> list[Composition]:
    """Return compositions that ask for a skill and nothing else, different subjects each."""
    names = {name.strip() for group in SUBJECTS.values() for name in group.split(",")}
    treatments = (skill.treatment,) if skill.treatment else ()
    style = STYLES.index(skill.style) if skill.style else None
    options = sorted(
        {
            subject
            for subject, drawn in zip(
                inputs.art.subject.tolist(), inputs.art.style.tolist(), strict=True
            )
            if style in (None, drawn) and skill.group in (None, inputs.art.subjects[subject].group)
        }
    )
    curated = [own for own in options if inputs.art.subjects[own].name in names]
    pool = curated if len(curated) >= config.prompts else options
    rng = np.random.default_rng([config.seed, len(skill.name)])
    order = np.resize(rng.permutation(len(pool)), config.prompts)
    return [Composition(pool[int(place)], skill.style, treatments) for place in order]


def _draw_all(
    inputs: ProofInputs, prompts: list[str], asked: list[Composition], config: SkillsConfig
) -> tuple[Tensor, Tensor]:
    """Return scores (experts + 1, prompts, 5) and closeness (experts + 1, prompts)."""
    sampler = inputs.sampler(config.batch)
    generator = torch.Generator(inputs.device).manual_seed(config.seed)
    noise = sampler.noise(len(prompts), generator)
    truths = true_images(inputs.art, asked)
    starts = range(0, len(prompts), config.batch)
    states = [sampler.context(prompts[start : start + config.batch]) for start in starts]
    scores, close = [], []
    plans = [{}, *({recipe.slug: recipe.strength} for recipe in inputs.community)]
    for plan in plans:
        sampler.write(plan)
        images = torch.cat(
            [
                sampler.draw_from(
                    sampler.context(prompts[start : start + config.batch])
                    if sampler.reads_text
                    else state,
                    noise[start : start + config.batch],
                )
                for start, state in zip(starts, states, strict=True)
            ]
        )
        scores.append(inputs.score(images, prompts))
        close.append(closeness_to(images, truths).cpu())
    sampler.write({})
    return torch.stack(scores), torch.stack(close)


def _summary(inputs: ProofInputs, skills: list[Skill], gains: Tensor) -> dict[str, Any]:
    """Return how far the diagonal stands out, over the good experts."""
    own = torch.tensor([[skill.is_of(recipe) for skill in skills] for recipe in inputs.community])
    good = torch.tensor([recipe.quality == "good" for recipe in inputs.community])
    rows = own.any(1) & good
    best = gains.argmax(1)
    hits = own[torch.arange(len(own)), best]
    by_kind = {
        kind: torch.tensor([recipe.kind == kind for recipe in inputs.community]) & rows
        for kind in ("checkpoint", "peft")
    }
    columns = own[gains.argmax(0), torch.arange(len(skills))]
    return {
        "own_skill_gain": round(float(gains[own & good[:, None]].mean()), 4),
        "other_skills_gain": round(float(gains[~own & good[:, None]].mean()), 4),
        "experts_best_at_their_own": round(float(hits[rows].double().mean()), 4),
        "skills_led_by_an_expert_of_theirs": round(float(columns.double().mean()), 4),
        **{
            f"{kind}_own_skill_gain": round(float(gains[own & mask[:, None]].mean()), 4)
            for kind, mask in by_kind.items()
            if mask.any()
        },
        "own_gain_of_expert": {
            recipe.slug: round(float(gains[row][own[row]].mean()), 4)
            for row, recipe in enumerate(inputs.community)
            if own[row].any()
        },
        "quality_of_expert": {recipe.slug: recipe.quality for recipe in inputs.community},
    }


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
