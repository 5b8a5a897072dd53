"""How close to the truth are the pictures of an evaluation? For emoji64, whose truth is known.

    diffgraph evaluate --prompts bench
    python -m recipes.emoji64.art --cache .cache/emoji64
    python docs/closeness.py HOME/reports/ID docs/figures/closeness.json

The plans that were compared are drawn again, with the first seed, and held against the art as the
prompt asks for it. No scorer has a say. The planner never saw closeness: it was trained on scores.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffgraph.artifacts import write_text
from diffgraph.errors import InputError
from diffgraph.evaluation.prompt_sets import EvaluationPrompt, load_prompts
from diffgraph.evaluation.statistics import bootstrap_mean, paired_bootstrap
from diffgraph.merging.plan import MergePlan
from diffgraph.progress import report
from diffgraph.session import Session
from diffgraph.settings import Settings
from recipes.emoji64.art import Art, load_art
from recipes.emoji64.truth import Composition, Truths, closeness_to, true_images

TOGETHER = 10  # pictures
REFERENCE = "diffgraph"


def main() -> None:
    """Draw, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path, help="the folder that holds plans.json")
    parser.add_argument("out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"), help="the art")
    parser.add_argument("--prompts", default="bench")
    parser.add_argument("--seed", type=int, default=0, help="the evaluation's first")
    given = parser.parse_args()
    art = load_art(given.cache)
    plans = read_plans(given.evaluation / "plans.json")
    known = subjects(art)
    prompts = [prompt for prompt in load_prompts(given.prompts) if prompt.subject in known]
    truths = true_images(art, [composition(prompt, known) for prompt in prompts])
    found = {}
    for number, (method, own) in enumerate(plans.items()):
        report("methods", number, len(plans), method)
        found[method] = measured(prompts, [own[p.id] for p in prompts], truths, given.seed)
    write_text(given.out, json.dumps(told(found), indent=1) + "\n")


def read_plans(path: Path) -> dict[str, dict[str, MergePlan]]:
    """Return an evaluation's plans: method → prompt id → plan."""
    rows = json.loads(path.read_text(encoding="utf-8"))["plans"]
    plans: dict[str, dict[str, MergePlan]] = {}
    for row in rows:
        plan = MergePlan.model_validate(row["plan"])
        plans.setdefault(row["method"], {})[row["prompt_id"]] = plan
    if REFERENCE not in plans:
        raise InputError(f"{path} holds no plan of {REFERENCE!r}")
    return plans


def subjects(art: Art) -> dict[str, int]:
    """Return the numbers of the subjects that are drawn, by name."""
    drawn = sorted(set(art.subject.tolist()), reverse=True)
    return {art.subjects[number].name: number for number in drawn}


def composition(prompt: EvaluationPrompt, known: dict[str, int]) -> Composition:
    """Return what a prompt asks for."""
    return Composition(known[prompt.subject], prompt.style or None, prompt.treatments)


def measured(
    prompts: Sequence[EvaluationPrompt], plans: Sequence[MergePlan], truths: Truths, seed: int
) -> list[float]:
    """Return the closeness of each prompt's picture."""
    renderer = Session.of(Settings()).renderer
    close: list[float] = []
    for start in range(0, len(prompts), TOGETHER):
        part = slice(start, start + TOGETHER)
        texts = [prompt.text for prompt in prompts[part]]
        images = renderer.render_rollouts(plans[part], texts, [seed] * len(texts)).cpu()
        close += closeness_to(images, truths.take(torch.arange(start, start + len(texts)))).tolist()
    return close


def told(found: dict[str, list[float]]) -> dict[str, object]:
    """Return means and leads with their intervals, the closest method first."""
    rows = []
    for method, values in sorted(found.items(), key=lambda item: -float(np.mean(item[1]))):
        generator = np.random.default_rng(0)
        mean = bootstrap_mean(values, generator=generator)
        lead = paired_bootstrap(found[REFERENCE], values, generator=generator)
        rows.append(
            {
                "method": method,
                "closeness": [round(own, 4) for own in (mean.mean, mean.low, mean.high)],
                "lead": None if method == REFERENCE else [round(own, 4) for own in lead],
            }
        )
    return {"prompts": len(found[REFERENCE]), "methods": rows}


if __name__ == "__main__":
    main()
