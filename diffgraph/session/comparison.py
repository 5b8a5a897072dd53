"""Which method is best on which prompts? Draws, scores, and writes the report that shows it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.evaluation.statistics import Interval, Summary
from diffgraph.progress import report
from diffgraph.results import Recorded, Result, Rows, rows
from diffgraph.session import Session

if TYPE_CHECKING:
    from diffgraph.evaluation.harness import EvaluationConfig, ScoredImages
    from diffgraph.evaluation.prompt_sets import EvaluationPrompt


class ComparisonConfig(BaseModel, frozen=True):
    """What is compared on what."""

    methods: tuple[str, ...] | None = None
    prompts: str = "bench"
    limit: int | None = None
    seeds: tuple[int, ...] | None = None


class ReportExtras(BaseModel, frozen=True):
    """What a report shows beside the comparison itself."""

    title: str = "DiffGraph"
    broken_pages: tuple[BrokenPage, ...] = ()
    training: Path | None = None
    """The folder of a training whose curves are shown."""
    durations: Mapping[str, float] = {}


class EvaluationResult(Result):
    """How the methods did, and where it is recorded."""

    summary: Summary
    prompts: int
    drawn: int
    left_out: dict[str, str]
    table: Path
    report: Path | None
    run: Recorded | None = None
    """None as long as it is not recorded."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield the table, then where the rest is."""
        seeds = "1 seed" if self.summary.seeds == 1 else f"{self.summary.seeds} seeds"
        yield f"{self.prompts} prompts, {seeds}, {self.drawn} images drawn now"
        yield _score_table(self.summary)
        if self.left_out:
            yield f"{len(self.left_out)} prompts left out, e.g. {next(iter(self.left_out.items()))}"
        yield f"rows: {self.table}; {self.run.line() if self.run else 'not recorded'}"
        if self.report is not None:
            yield f"report: {self.report}"


def compare(
    session: Session,
    comparison: ComparisonConfig,
    folder: Path,
    page: Path | None,
    extras: ReportExtras,
) -> EvaluationResult:
    """Draw and score every method on every prompt, and write the report."""
    from diffgraph.evaluation.harness import evaluate
    from diffgraph.evaluation.prompt_sets import load_prompts
    from diffgraph.evaluation.statistics import summarise

    start = time.monotonic()
    prompts = _spread(
        load_prompts(comparison.prompts, family=session.family_name), comparison.limit
    )
    config = evaluation_config(session, comparison)
    methods = config.methods
    evaluation = evaluate(
        prompts,
        _bench(session),
        folder,
        config,
        on_progress=lambda done, total: report("evaluate", done, total),
    )
    reference = "diffgraph" if "diffgraph" in methods else methods[-1]
    summary = summarise(evaluation.table, reference)
    if page is not None:
        durations = {**extras.durations, "evaluate": time.monotonic() - start}
        _write_report(page, session, evaluation, summary, extras, comparison, durations)
    return EvaluationResult(
        summary=summary,
        prompts=len(prompts) - len(evaluation.left_out),
        drawn=evaluation.drawn,
        left_out=dict(evaluation.left_out),
        table=folder / "results.parquet",
        report=page,
    )


def evaluation_config(session: Session, comparison: ComparisonConfig) -> "EvaluationConfig":
    """Return how to compare: as asked for, else as the config file says, else the default."""
    from diffgraph.evaluation.harness import EvaluationConfig

    return session.overrides.of(
        EvaluationConfig(), methods=comparison.methods, seeds=comparison.seeds
    )


def _spread(
    prompts: "Sequence[EvaluationPrompt]", limit: int | None
) -> "Sequence[EvaluationPrompt]":
    """Return at most `limit` of the prompts, spread over the whole set."""
    from diffgraph.evaluation.harness import evenly

    return prompts if limit is None else evenly(prompts, limit)


def _bench(session: Session) -> Any:
    from diffgraph.agents.drawn_text import TEXT_VERSION
    from diffgraph.evaluation.harness import Bench
    from diffgraph.scoring import score

    sampler = session.family.sampler.model_dump_json()
    return Bench(
        make_plans=session.plans,
        render=session.renderer.render,
        score=lambda images, prompts: score(session.scorers, images, prompts),
        reward=session.graph.reward.of,
        identity=f"{session.family_name}|{sampler}|{session.scorers_id}|{TEXT_VERSION}",
        scores=session.graph.score_names,
    )


def _write_report(
    page: Path,
    session: Session,
    evaluation: "ScoredImages",
    summary: Summary,
    extras: ReportExtras,
    comparison: ComparisonConfig,
    durations: Mapping[str, float],
) -> None:
    from diffgraph.evaluation.gathering import comparisons, graph_view, training_curves
    from diffgraph.evaluation.report import ReportData, write_report
    from diffgraph.experts.library import Library
    from diffgraph.planner.training import history
    from diffgraph.scoring import scorers_of
    from diffgraph.version import version

    snapshot = session.graph
    seeds = evaluation_config(session, comparison).seeds
    nodes = snapshot.nodes.select(["ref", "name", "summary"]).to_pylist()
    selections = {prompt.text: session.plans.selection(prompt.text) for prompt in evaluation.shown}
    data = ReportData(
        title=extras.title,
        family=session.family.title,
        experts=Library(session.home).experts(),
        broken_pages=extras.broken_pages,
        summaries={node["ref"]: node["summary"] for node in nodes},
        graph=graph_view(snapshot),
        curves=training_curves(history(extras.training)) if extras.training else (),
        summary=summary,
        scorers=scorers_of(session.family),
        comparisons=comparisons(
            evaluation, {node["ref"]: node["name"] for node in nodes}, selections
        ),
        left_out=evaluation.left_out,
        made_by={
            "snapshot": snapshot.id,
            "planner": session.planner_id,
            "prompts": f"{comparison.prompts}, seeds {', '.join(map(str, seeds))}",
            "sampler": f"{session.family.sampler.steps} steps, "
            f"guidance {session.family.sampler.guidance:g}",
            "device": str(session.renderer.device),
            "diffgraph": version(),
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        },
        durations=durations,
    )
    write_report(page, data)


def _score_table(summary: Summary) -> Rows:
    """Return a line a method: its reward, and how far the reference method is ahead of it."""
    return rows(
        ("method", "reward", "95 % interval", f"{summary.reference} ahead by", "wins"),
        [
            (
                method.method,
                method.scores["reward"].mean,
                _between(method.scores["reward"]),
                _lead(method.lead.get("reward")),
                "" if method.win_rate is None else f"{100 * method.win_rate:.0f} %",
            )
            for method in summary.methods
        ],
    )


def _between(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def _lead(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:+.3f} ({_between(interval)})"
