"""Which checkpoints must not be chosen, by their calibration?

A checkpoint redraws everything, so it should draw any reference prompt about as well as the base
does. One that is far worse on all of them is over-trained or broken, whatever its page says. PEFT
experts are not judged so: most reference prompts do not ask for their effect.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from diffgraph.graph.snapshot import GraphSnapshot

FAR_WORSE = 0.5  # deviations of the base's scores
CERTAINTY = 1.96  # standard errors: 95 %


def exclusions(snapshot: "GraphSnapshot") -> dict[str, str]:
    """Return why checkpoints must not be chosen, by reference: those far worse than the base.

    Far worse: the mean of all five scores' gains over the base lies below minus `FAR_WORSE`
    deviations with all of its 95 % interval.
    """
    measured = set(snapshot.calibrated)
    refs = [
        ref
        for ref, kind in zip(snapshot.refs, snapshot.kinds, strict=True)
        if kind == "checkpoint" and ref in measured
    ]
    if not refs:
        return {}
    gains = np.asarray(snapshot.edge_gains(refs), dtype=np.float64).mean(axis=2)
    if gains.shape[1] < 2:
        return {}  # one prompt proves nothing
    means = gains.mean(axis=1)
    errors = gains.std(axis=1, ddof=1) / np.sqrt(gains.shape[1])
    worse = (gains < 0).sum(axis=1)
    return {
        ref: (
            f"calibration found it worse than the base on {count} of {gains.shape[1]} reference "
            f"prompts ({mean:+.1f} deviations)"
        )
        for ref, mean, error, count in zip(refs, means, errors, worse, strict=True)
        if mean + CERTAINTY * error < -FAR_WORSE
    }
