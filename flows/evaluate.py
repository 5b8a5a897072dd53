"""Which method is best, and are we sure? Every method on the same prompts, seeds and noise."""

from pathlib import Path

from prefect.artifacts import create_link_artifact

from diffgraph.evaluation.statistics import Summary
from diffgraph.session import Session
from diffgraph.session.comparison import (
    ComparisonConfig,
    EvaluationResult,
    ReportExtras,
    evaluation_config,
)
from diffgraph.settings import Settings
from diffgraph.targets import demand_new, demand_suffix
from flows.serving.parameter_types import Limit, Methods, Name, Place, Seeds
from flows.serving.publishing import publish
from flows.serving.runners import runner_for
from flows.serving.watched import flow, one_at_a_time
from tasks.evaluation import compare
from tasks.tracking import record_evaluation

REPORTS = (".html", ".htm")
MARK, MARK_WITHIN = b'content="diffgraph evaluate"', 512  # bytes of a report's beginning


@flow(name="evaluate", task_runner=runner_for(Settings()))
@one_at_a_time("evaluate")
def evaluate(  # noqa: PLR0913 (the parameters of a deployment are its form)
    methods: Methods | None = None,
    prompts: Name = "bench",
    limit: Limit | None = None,
    report: Place | None = None,
    seeds: Seeds | None = None,
    family: Name | None = None,
    extras: ReportExtras | None = None,
    force: bool = False,
) -> EvaluationResult:
    """Compare methods on a set of prompts, with paired bootstrap intervals.

    Args:
        methods: what is compared; all that are known if unset.
        prompts: a bundled set or a file.
        limit: use so many prompts at most, spread over the set.
        report: write an HTML report here.
        seeds: of the first noise, an image each.
        family: the model family; the setting if unset.
        extras: what the report shows beside the comparison.
        force: write over a report that is there.
    """
    settings = Settings()
    family = family or settings.family
    if report is not None:
        demand_suffix(report, REPORTS)
        demand_new(report, settings, force or _is_ours(report))
    session = Session.of(settings, family).pinned()
    comparison = ComparisonConfig(
        methods=tuple(methods) if methods else None, prompts=prompts, limit=limit, seeds=seeds
    )
    folder = settings.home / "reports" / f"{session.graph.id}-{session.planner_id}"
    compared = compare(session, comparison, folder, report, extras or ReportExtras())
    run = record_evaluation(
        settings.home,
        settings.mlflow_tracking_uri,
        {
            "snapshot": session.graph.id,
            "planner": session.planner_id,
            **comparison.model_dump(),
            **evaluation_config(session, comparison).model_dump(mode="json"),
            **session.configs(),
        },
        _metrics(compared.summary),
        [compared.table, *([report] if report else [])],
    )
    done = compared.model_copy(update={"run": run})
    publish(done, key="scores")
    if report is not None:
        create_link_artifact(report.resolve().as_uri(), link_text="the report", key="report")
    return done


def _is_ours(report: Path) -> bool:
    """Whether a file is a report that an evaluation wrote: the same command goes on from it."""
    if not report.is_file():
        return False
    with report.open("rb") as file:
        return MARK in file.read(MARK_WITHIN)


def _metrics(summary: Summary) -> dict[str, float]:
    metrics = {}
    for method in summary.methods:
        metrics[f"{method.method}.reward"] = method.scores["reward"].mean
        if lead := method.lead.get("reward"):
            metrics[f"{method.method}.behind_by"] = lead.mean
    return metrics
