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
from recipes.emoji64.pictures import save_heat_map
from recipes.emoji64.scorer_plans import covered
from recipes.emoji64.studio import Studio
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


def prove_skills(studio: Studio, folder: Path, config: SkillsConfig) -> dict[str, Any]:
    """Draw every expert on every skill's prompts, with the base's own first noise."""
    skills = skills_of(studio)
    asked = [own for skill in skills for own in _compositions(studio, skill, config)]
    rng = np.random.default_rng(config.seed)
    prompts = [
        captions.caption(studio.art.subjects[own.subject], own.style, list(own.treatments), rng)
        for own in asked
    ]
    names = ["base", *(recipe.slug for recipe in studio.community)]
    scores, close = _draw_all(studio, prompts, asked, config)
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
        **_summary(studio, skills, gains),
        "images": ["specialisation.png"],
    }


def skills_of(studio: Studio) -> list[Skill]:
    """Return the skills of the good experts: treatments, then groups, then styles."""
    good = [recipe for recipe in studio.community if recipe.quality == "good"]
    treatments = [name for name in TREATMENTS if name in covered(studio.community)]
    drawn = {subject.group for subject in studio.art.subjects}
    groups = sorted({group for recipe in good for group in recipe.groups} & drawn)
    styles = [style for style in STYLES if any(style in recipe.styles for recipe in good)]
    return [
        *(Skill(name, treatment=name) for name in treatments),
        *(Skill(name, group=name) for name in groups),
        *(Skill(name, style=name) for name in styles),
    ]


def _compositions(studio: Studio, skill: Skill, config: SkillsConfig) -> list[Composition]:
    """Return compositions that ask for a skill and nothing else, different subjects each."""
    names = {name.strip() for group in SUBJECTS.values() for name in group.split(",")}
    treatments = (skill.treatment,) if skill.treatment else ()
    style = STYLES.index(skill.style) if skill.style else None
    options = sorted(
        {
            subject
            for subject, drawn in zip(
                studio.art.subject.tolist(), studio.art.style.tolist(), strict=True
            )
            if style in (None, drawn) and skill.group in (None, studio.art.subjects[subject].group)
        }
    )
    curated = [own for own in options if studio.art.subjects[own].name in names]
    pool = curated if len(curated) >= config.prompts else options
    rng = np.random.default_rng([config.seed, len(skill.name)])
    order = np.resize(rng.permutation(len(pool)), config.prompts)
    return [Composition(pool[int(place)], skill.style, treatments) for place in order]


def _draw_all(
    studio: Studio, prompts: list[str], asked: list[Composition], config: SkillsConfig
) -> tuple[Tensor, Tensor]:
    """Return scores (experts + 1, prompts, 5) and closeness (experts + 1, prompts)."""
    easel = studio.easel(config.batch)
    generator = torch.Generator(studio.device).manual_seed(config.seed)
    noise = easel.noise(len(prompts), generator)
    truths = true_images(studio.art, asked)
    starts = range(0, len(prompts), config.batch)
    states = [easel.context(prompts[start : start + config.batch]) for start in starts]
    scores, close = [], []
    plans = [{}, *({recipe.slug: recipe.strength} for recipe in studio.community)]
    for plan in plans:
        easel.write(plan)
        images = torch.cat(
            [
                easel.draw_from(
                    easel.context(prompts[start : start + config.batch])
                    if easel.reads_text
                    else state,
                    noise[start : start + config.batch],
                )
                for start, state in zip(starts, states, strict=True)
            ]
        )
        scores.append(studio.score(images, prompts))
        close.append(closeness_to(images, truths).cpu())
    easel.write({})
    return torch.stack(scores), torch.stack(close)


def _summary(studio: Studio, skills: list[Skill], gains: Tensor) -> dict[str, Any]:
    """Return how far the diagonal stands out, over the good experts."""
    own = torch.tensor([[skill.is_of(recipe) for skill in skills] for recipe in studio.community])
    good = torch.tensor([recipe.quality == "good" for recipe in studio.community])
    rows = own.any(1) & good
    best = gains.argmax(1)
    hits = own[torch.arange(len(own)), best]
    by_kind = {
        kind: torch.tensor([recipe.kind == kind for recipe in studio.community]) & rows
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
            for row, recipe in enumerate(studio.community)
            if own[row].any()
        },
        "quality_of_expert": {recipe.slug: recipe.quality for recipe in studio.community},
    }


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
