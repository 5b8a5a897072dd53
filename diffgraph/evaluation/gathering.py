"""Where do a report's parts come from? A snapshot, a training, an evaluation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffgraph.evaluation.drawing import Curve, GraphView
from diffgraph.evaluation.harness import ScoredImages
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.evaluation.report import Comparison, ExpertShare, Picture
from diffgraph.planner.selection import Selection

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot
    from diffgraph.planner.training import StepRecord

CURVES: Mapping[str, str] = {
    "reward": "Reward of the plans tried",
    "validation": "Reward on validation prompts",
    "entropy": "Entropy of the policy",
    "divergence": "KL divergence",
}
"""What is shown of a training, with its title."""


def graph_view(snapshot: "GraphSnapshot") -> GraphView:
    """Return a snapshot's calibrated experts, reference prompts and gains, ready to be drawn."""
    rows = snapshot.index(snapshot.calibrated)
    return GraphView(
        refs=snapshot.calibrated,
        kinds=tuple(snapshot.kinds[row] for row in rows),
        names=tuple(snapshot.names[row] for row in rows),
        texts=tuple(snapshot.texts[row] for row in rows),
        embeddings=np.asarray(snapshot.embeddings[rows], dtype=np.float64),
        prompts=snapshot.prompt_texts,
        prompt_embeddings=np.asarray(snapshot.prompt_embeddings, dtype=np.float64),
        gains=np.asarray(snapshot.edge_gains(snapshot.calibrated), dtype=np.float64),
        scores=snapshot.score_names,
    )


def training_curves(records: Sequence["StepRecord"]) -> list[Curve]:
    """Return what a training measured, a curve each; a value that is missing is left out."""
    curves = []
    for name, title in CURVES.items():
        points = [
            (record.step, value)
            for record in records
            if (value := getattr(record, name)) is not None
        ]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            curves.append(Curve(title, steps, values))
    return curves


def comparisons(
    evaluation: ScoredImages,
    names: Mapping[str, str],
    selections: Mapping[str, Selection] | None = None,
) -> list[Comparison]:
    """Return the prompts whose pictures were kept, every method's picture side by side.

    Args:
        evaluation: what `evaluate` returned.
        names: ref → the expert's name.
        selections: prompt text → what was selected for it, for the reasons.
    """
    methods = list(dict.fromkeys(method for method, _ in evaluation.plans))
    rewards = mean_rewards(evaluation)

    def comparison(prompt: EvaluationPrompt) -> Comparison:
        selection = (selections or {}).get(prompt.text)
        reasons = {choice.ref: choice.reason for choice in selection.experts} if selection else {}
        return Comparison(
            prompt=prompt.text,
            summary=selection.summary if selection else "",
            attributes=selection.attributes if selection else (),
            pictures=[
                Picture(
                    method=method,
                    png=evaluation.images[method, prompt.id].read_bytes(),
                    reward=rewards[method, prompt.id],
                    parts=_parts(evaluation, (method, prompt.id), names, reasons),
                )
                for method in methods
            ],
        )

    return [comparison(prompt) for prompt in evaluation.shown]


def mean_rewards(evaluation: ScoredImages) -> dict[tuple[str, str], float]:
    """Return the mean reward over seeds, by method and prompt id."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in evaluation.table.to_pylist():
        found.setdefault((row["method"], row["prompt_id"]), []).append(row["reward"])
    return {key: sum(values) / len(values) for key, values in found.items()}


def _parts(
    evaluation: ScoredImages,
    key: tuple[str, str],
    names: Mapping[str, str],
    reasons: Mapping[str, str],
) -> list[ExpertShare]:
    plan = evaluation.plans[key]
    coefficients = plan.coefficients()
    return [
        ExpertShare(
            ref=planned.ref,
            name=names.get(planned.ref, planned.ref),
            kind=planned.kind,
            coefficient=coefficients[planned.ref],
            reason=reasons.get(planned.ref, ""),
        )
        for planned in plan.experts
    ]
