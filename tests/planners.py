"""Planners that differ from others in what is on record of them, and so in their ids."""

from diffgraph.planner.planner import Planner


def with_metrics(planner: Planner, **metrics: float) -> Planner:
    """Return the same planner with these metrics on record."""
    known = {**planner.config.metrics, **metrics}
    return Planner(planner.config.model_copy(update={"metrics": known}), planner.vgae)
