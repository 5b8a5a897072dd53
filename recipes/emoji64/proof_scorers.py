"""Do the scorers follow the truth? On compositions whose pairs of treatments they never saw."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgraph.scoring import Reward
from recipes.emoji64.measures import rank_correlation
from recipes.emoji64.proof_figures import save_curves, save_rows
from recipes.emoji64.proof_inputs import ProofInputs
from recipes.emoji64.scorer_data import KINDS, DataConfig, ScorerData, make_data
from recipes.emoji64.scorer_plans import DRAWN, STRENGTHS
from recipes.emoji64.truth import Truths, closeness_to

RIGHT = "right 1.0"
ENOUGH = 0.02  # closeness: pairs that differ by less have no winner
ACROSS = (0.0, *STRENGTHS)  # the base is the right experts at strength 0
POOLED = 4000  # images that are ranked together
SHOWN = 8  # groups in the picture


def prove_scorers(inputs: ProofInputs, folder: Path, config: DataConfig) -> dict[str, Any]:
    """Draw fresh groups of held-out compositions and compare scores with closeness."""
    data = make_data(inputs.sampler(config.prompts), inputs.art, config, held_out=True)
    prompts = [own[0] for own in data.prompts for _ in KINDS]
    flat = inputs.score(data.images.flatten(0, 1), prompts)
    scores = flat.view(len(data), len(KINDS), -1)
    strangers = _neighbours(data)
    foreign = data.images[strangers, KINDS.index(RIGHT)]
    foreign_scores = inputs.score(foreign, [own[0] for own in data.prompts])
    foreign_close = closeness_to(foreign, Truths(data.truths.images, data.truths.allowed)).cpu()
    rewards = Reward.fit(flat).of(flat).view(len(data), len(KINDS))
    close, clean = data.closeness.cpu(), data.cleanness.cpu()
    rated = {name: scores[:, :, number] for number, name in enumerate(inputs.scorers)}
    pairs = {
        name: _preferences(rated[name], foreign_scores[:, number], close, foreign_close)
        for number, name in enumerate(inputs.scorers)
    }
    columns = [KINDS.index("base"), *(KINDS.index(f"right {own}") for own in STRENGTHS)]
    curves = {name: own[:, columns].mean(0).tolist() for name, own in rated.items()}
    curves["closeness"] = close[:, columns].mean(0).tolist()
    title = "mean score by strength of the right experts (each scaled to 0..1)"
    save_curves(ACROSS, curves, title, folder / "strength.png")
    _save_examples(data, folder)
    return {
        "prompts": len(data),
        "images": ["strength.png", "groups.png"],
        "scorers": {
            name: {
                **_correlations(own, close, clean),
                "peak_strength": _peak(curves[name]),
                "rises_and_falls": rises_and_falls(curves[name]),
                "preferences": pairs[name],
            }
            for name, own in rated.items()
        },
        "reward": _correlations(rewards, close, clean),
        "closeness_peak_strength": _peak(curves["closeness"]),
        "strengths": list(ACROSS),
        "curves": {name: [round(value, 4) for value in own] for name, own in curves.items()},
        "agreement": _agreement(rated),
    }


def _correlations(scores: Tensor, close: Tensor, clean: Tensor) -> dict[str, float]:
    """Return rank correlations over what models drew: within prompts, and over all images."""
    drawn = slice(0, len(DRAWN))
    pick = slice(None, None, max(1, scores[:, drawn].numel() // POOLED))
    flat = [values[:, drawn].flatten()[pick] for values in (scores, close, clean)]
    return {
        "within_prompt": round(
            float(rank_correlation(scores[:, drawn], close[:, drawn]).mean()), 4
        ),
        "pooled": round(float(rank_correlation(flat[0], flat[1])), 4),
        "pooled_with_cleanness": round(float(rank_correlation(flat[0], flat[2])), 4),
    }


def _preferences(
    scores: Tensor, foreign: Tensor, close: Tensor, foreign_close: Tensor
) -> dict[str, dict[str, float]]:
    """Return how often the right image is preferred: in all pairs, in those the truth decides."""
    right = scores[:, KINDS.index(RIGHT)]
    right_close = close[:, KINDS.index(RIGHT)]
    others = {
        "wrong subject": (foreign, foreign_close),
        "wrong treatment": _of("wrong", scores, close),
        "degraded": _of("degraded right", scores, close),
        "base": _of("base", scores, close),
        "half strength": _of("right 0.5", scores, close),
        "over-strong": _of("right 1.75", scores, close),
    }
    found = {}
    for name, (other, other_close) in others.items():
        wins = (right > other).double()
        decided = right_close > other_close + ENOUGH
        found[name] = {
            "all": round(float(wins.mean()), 4),
            "decided": round(float(wins[decided].mean()) if decided.any() else 0.0, 4),
            "decided_share": round(float(decided.double().mean()), 4),
        }
    return found


def _of(kind: str, scores: Tensor, close: Tensor) -> tuple[Tensor, Tensor]:
    return scores[:, KINDS.index(kind)], close[:, KINDS.index(kind)]


def _neighbours(data: ScorerData) -> Tensor:
    """Return, for each prompt, one of the same treatments with another subject."""
    found = []
    for row, own in enumerate(data.compositions):
        first = row - row % data.together
        order = [
            first + (row - first + step) % data.together for step in range(1, data.together + 1)
        ]
        other = [place for place in order if data.compositions[place].subject != own.subject]
        found.append(other[0] if other else row)
    return torch.tensor(found, device=data.images.device)


def _peak(curve: list[float]) -> float:
    return ACROSS[max(range(len(curve)), key=curve.__getitem__)]


def rises_and_falls(curve: list[float]) -> bool:
    """Say whether a curve has one summit, rising all the way to it and falling from it."""
    summit = max(range(len(curve)), key=curve.__getitem__)
    steps = [after - before for before, after in pairwise(curve)]
    return all(step > 0 for step in steps[:summit]) and all(step < 0 for step in steps[summit:])


def _agreement(rated: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the scorers' rank correlations with each other, within prompts: 1 is one scorer."""
    names = list(rated)
    return {
        f"{first} / {second}": round(float(rank_correlation(rated[first], rated[second]).mean()), 4)
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    }


def _save_examples(data: ScorerData, folder: Path) -> None:
    """Save a few whole groups: a prompt a row, a kind a column."""
    rows = range(0, len(data), max(1, data.together))[:SHOWN]
    save_rows(
        {" + ".join(data.compositions[row].treatments): data.images[row].cpu() for row in rows},
        1,
        folder / "groups.png",
        KINDS,
    )
