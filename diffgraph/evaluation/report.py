"""How is a whole run shown to a person? As one HTML file that opens anywhere, offline.

Everything is inside the file: images as data URIs, drawings as SVG, no script, no font, no address.
Names and texts come from hub pages: they are hostile, and the template engine escapes every one.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffgraph.artifacts import write_text
from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.evaluation import drawing
from diffgraph.evaluation.drawing import Curve, GraphView
from diffgraph.evaluation.statistics import Summary
from diffgraph.experts.expert import Expert
from diffgraph.families.scorer import FamilyScorer
from diffgraph.printable import harmless, printable
from diffgraph.secrets import masked

__all__ = [
    "Comparison",
    "Curve",
    "ExpertShare",
    "GraphView",
    "Picture",
    "ReportData",
    "write_report",
]

TEMPLATES = Path(__file__).parent / "templates"

METHOD_TITLES: Mapping[str, str] = {
    "base": "Base model",
    "single": "One expert, calibrated",
    "best_single": "Best single expert",
    "uniform": "Uniform merge",
    "uniform_strength": "Page strengths",
    "random": "Random merge",
    "diffgraph": "DiffGraph",
    "diffgraph_softmax": "DiffGraph, softmax",
}
METHOD_NOTES: Mapping[str, str] = {
    "base": "no experts at all",
    "single": "of the same selection, the expert that calibration likes best",
    "best_single": "an oracle: of the selection, the best for this prompt, by another seed if any",
    "uniform": "the same selection, equal coefficients that sum to one",
    "uniform_strength": "the same selection, every expert as strong as its page says",
    "random": "the same selection, coefficients drawn by lot",
    "diffgraph": "the same selection, coefficients by the trained planner",
    "diffgraph_softmax": "the planner's coefficients, normalised as in the paper",
}


@dataclass(frozen=True)
class ExpertShare:
    """An expert's part in the plan behind a picture."""

    ref: str
    name: str
    kind: str
    coefficient: float
    """After normalisation: what the expert's update was multiplied by."""
    reason: str = ""
    """Why the agent kept it for this prompt."""


@dataclass(frozen=True)
class Picture:
    """What a method drew for a prompt."""

    method: str
    png: bytes
    reward: float
    parts: Sequence[ExpertShare] = ()


@dataclass(frozen=True)
class Comparison:
    """A prompt as every method drew it, with the same noise."""

    prompt: str
    pictures: Sequence[Picture]
    summary: str = ""
    """What the agent read as the subject and overall style."""
    attributes: Sequence[str] = ()
    """What it read as visual attributes."""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. A part that is empty is left out of the page."""

    title: str
    family: str
    experts: Sequence[Expert] = ()
    """Everything in the library: status and reason say what was refused and why."""
    broken_pages: Sequence[BrokenPage] = ()
    summaries: Mapping[str, str] = field(default_factory=dict)
    """Ref → what its card says."""
    graph: GraphView | None = None
    curves: Sequence[Curve] = ()
    summary: Summary | None = None
    scorers: Mapping[str, FamilyScorer] = field(default_factory=dict)
    """What the family says of its scores: their titles, and what a reader must know."""
    comparisons: Sequence[Comparison] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Prompt id → why it was not evaluated."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Snapshot, planner, code version, seeds, sampler, device, date, …: name → value."""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds."""


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report as one self-contained HTML file, and return its path."""
    page = _environment(data.scorers).get_template("report.html.j2")
    write_text(path, page.render(_everything(data)))
    return path


def plain(text: object, most: int = 400) -> str:
    """Return a text without characters that steer how it is shown, cut to a length."""
    clean = harmless(" ".join(masked(str(text)).split()), "")
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def _environment(scorers: Mapping[str, FamilyScorer]) -> Environment:
    titles = {"reward": "Reward", **{name: scorer.title for name, scorer in scorers.items()}}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # for all templates, whatever they are called
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        plain=plain,
        signed=drawing.signed,
        short=drawing.short,
        megabytes=lambda size: f"{size / 1e6:.2f} MB",
        duration=_duration,
        data_uri=lambda png: Markup("data:image/png;base64," + base64.b64encode(png).decode()),
        method=lambda name: METHOD_TITLES.get(name, name),
        note=lambda name: METHOD_NOTES.get(name, ""),
        score=lambda name: titles.get(name, name),
        plan_rows=_plan_rows,
    )
    return environment


@dataclass
class PlanRow:
    """An expert with what every method multiplies its update by."""

    name: str
    kind: str
    reason: str
    coefficients: dict[str, float]


def _plan_rows(comparison: Comparison) -> list[PlanRow]:
    """Return the experts of all plans for a prompt, checkpoints first, the strongest first."""
    rows: dict[str, PlanRow] = {}
    for picture in comparison.pictures:
        for part in picture.parts:
            row = rows.setdefault(part.ref, PlanRow(part.name, part.kind, "", {}))
            row.reason = row.reason or part.reason
            row.coefficients[picture.method] = part.coefficient
    return sorted(rows.values(), key=lambda row: (row.kind, -max(row.coefficients.values())))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"


def _everything(data: ReportData) -> dict[str, object]:
    """Return what the template is filled with."""
    ready = [expert for expert in data.experts if expert.status == "ready"]
    aside = [expert for expert in data.experts if expert.status != "ready"]
    order = ("rejected", "registered_only", "superseded", "retired")
    aside.sort(key=lambda expert: (order.index(expert.status), expert.name))
    graph = data.graph if data.graph and data.graph.gains.size else None
    reference = data.summary.reference if data.summary else "diffgraph"
    return {
        "data": data,
        "ready": sorted(ready, key=lambda expert: (expert.kind, expert.name)),
        "aside": aside,
        "graph": drawing.draw_graph(graph) if graph else None,
        "heat": drawing.draw_heat_map(graph) if graph else [],
        "curves": [found for curve in data.curves if (found := drawing.draw_curve(curve))],
        "leads": drawing.draw_leads(data.summary) if data.summary else None,
        "columns": data.summary.columns if data.summary else (),
        "best": _best(data.summary) if data.summary else {},
        "reference": reference,
        "hero": [
            (comparison.prompt, picture)
            for comparison in data.comparisons
            for picture in comparison.pictures
            if picture.method == reference
        ],
        "total": sum(data.durations.values()),
    }


def _best(summary: Summary) -> dict[str, str]:
    """Return the method with the best mean, by column."""
    return {
        column: max(summary.methods, key=lambda method: method.scores[column].mean).method
        for column in summary.columns
    }
