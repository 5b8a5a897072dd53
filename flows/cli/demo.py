"""Does the whole system work? From a hub to a report, on the family that ships, on any laptop."""

import time
from collections.abc import Iterator
from pathlib import Path

from prefect.artifacts import create_link_artifact

from diffgraph.crawlers.changes import Discovery
from diffgraph.results import Result, Rows
from diffgraph.session.building import BuildResult
from diffgraph.session.comparison import EvaluationResult, ReportExtras
from diffgraph.session.overrides import read_overrides
from diffgraph.settings import Settings
from flows.build_graph import build
from flows.discover import discover
from flows.evaluate import evaluate
from flows.serving.parameter_types import Limit, Place, ReferencePrompts, Steps, TrainingPrompts
from flows.serving.watched import flow
from flows.train_planner import TrainingResult, train

REPORT = "report.html"


class DemoResult(Result):
    """What the demo made."""

    report: Path
    seconds: dict[str, float]
    discovery: Discovery
    build: BuildResult
    training: TrainingResult
    evaluation: EvaluationResult

    def lines(self) -> Iterator[str | Rows]:
        """Yield each stage's own words, then what to look at."""
        for stage in (self.discovery, self.build, self.training, self.evaluation):
            yield from stage.lines()
            yield ""
        told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        yield f"{told}; together {sum(self.seconds.values()):.0f} s"
        yield f"open {self.report} in a browser"


@flow(name="demo")
def demo(
    out: Place = Path("demo"),
    reference_prompts: ReferencePrompts = 16,
    steps: Steps = 25,
    training_prompts: TrainingPrompts = 160,
    bench_prompts: Limit = 24,
) -> DemoResult:
    """Run every stage on the bundled family and write the report.

    Args:
        out: where the report goes.
        reference_prompts: prompts that every expert is measured on.
        steps: of the planner's training.
        training_prompts: that the planner practises on.
        bench_prompts: that methods are compared on.
    """
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = round(time.monotonic() - clock, 1)
        clock = time.monotonic()

    overrides = read_overrides(Settings().config)  # what it says wins over a demo's small sizes
    found = discover()
    lap("discover")
    built = build(reference_prompts=overrides.get("calibration", "prompts", reference_prompts))
    lap("build")
    trained = train(steps=overrides.get("training", "steps", steps), prompts=training_prompts)
    lap("train")
    extras = ReportExtras(
        title="DiffGraph on its bundled family",
        broken_pages=found.broken,
        training=trained.folder,
        durations=dict(seconds),
    )
    report = (out / REPORT).resolve()
    seeds = tuple(overrides.get("evaluation", "seeds", (0,)))
    compared = evaluate(limit=bench_prompts, seeds=seeds, report=report, extras=extras, force=True)
    lap("evaluate")
    create_link_artifact(report.as_uri(), link_text="the report", key="demo-report")
    return DemoResult(
        report=report,
        seconds=seconds,
        discovery=found,
        build=built,
        training=trained,
        evaluation=compared,
    )
