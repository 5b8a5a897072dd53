"""Where does each mark of the report's drawings go?

Coordinates only: the template writes the SVG, so that every text is escaped in one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffgraph.evaluation.statistics import Summary

Array = NDArray[np.float64]

GRAPH_WIDTH, GRAPH_HEIGHT, GRAPH_MARGIN = 980.0, 620.0, 46.0
MINUS = "\N{MINUS SIGN}"  # as wide as a plus, unlike the hyphen

LETTER, LINE = 6.1, 13.0  # the size of a label's letter, in the graph's units
EDGES_EACH = 3  # the prompts an expert is tied to: those it gains most on
CURVE_WIDTH, CURVE_HEIGHT = 420.0, 190.0
CURVE_LEFT, CURVE_RIGHT, CURVE_TOP, CURVE_BOTTOM = 44.0, 12.0, 12.0, 24.0
LEAD_WIDTH, LEAD_ROW, LEAD_LEFT = 760.0, 44.0, 210.0


@dataclass(frozen=True)
class GraphView:
    """The universal graph as it is drawn: experts, reference prompts, and gains between them."""

    refs: Sequence[str]
    kinds: Sequence[str]
    """`checkpoint` or `peft`, one per expert."""
    names: Sequence[str]
    texts: Sequence[str]
    """The cards' texts."""
    embeddings: Array
    """(experts, width)"""
    prompts: Sequence[str]
    prompt_embeddings: Array
    """(prompts, width)"""
    gains: Array
    """(experts, prompts, scores): each less the base model's, in standard deviations."""
    scores: Sequence[str]


Spot = tuple[float, float]
"""x and y."""


@dataclass(frozen=True)
class Node:
    """A disc of the graph."""

    x: float
    y: float
    radius: float
    kind: str
    title: str
    label: str
    """Empty where it would cover another one."""
    label_y: float


@dataclass(frozen=True)
class Edge:
    """A line of the graph."""

    start: Spot
    end: Spot
    weight: float
    """In (0, 1]."""


@dataclass(frozen=True)
class GraphDrawing:
    """The graph's nodes and edges."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    width: float = GRAPH_WIDTH
    height: float = GRAPH_HEIGHT


def draw_graph(view: GraphView) -> GraphDrawing:
    """Place experts and prompts: alike texts and strong gains pull together, all else apart."""
    mean = view.gains.mean(axis=2)
    count = len(view.refs)
    edges = [
        (expert, int(prompt), float(mean[expert, prompt]))
        for expert in range(count)
        for prompt in np.argsort(-mean[expert])[:EDGES_EACH]
        if mean[expert, prompt] > 0
    ]
    strongest = max((gain for _, _, gain in edges), default=1.0)
    pull = np.zeros((count + len(view.prompts),) * 2)
    for expert, prompt, gain in edges:
        pull[expert, count + prompt] = pull[count + prompt, expert] = gain / strongest
    places = _layout(np.concatenate([view.embeddings, view.prompt_embeddings]), pull)
    best = mean.max(axis=1, initial=0.0) / strongest if len(view.prompts) else np.zeros(count)
    spots = [(float(x), float(y)) for x, y in places]
    boxes = [_box(x, y, 5.0) for x, y in spots]
    nodes = []
    for index in np.argsort(-np.append(best, np.full(len(view.prompts), -1.0))):
        nodes.append(_node(view, int(index), spots[index], best, boxes))
    drawn = [
        Edge(spots[expert], spots[count + prompt], max(0.12, gain / strongest))
        for expert, prompt, gain in edges
    ]
    return GraphDrawing(nodes=nodes[::-1], edges=drawn)


Box = tuple[float, float, float, float]


def _box(x: float, y: float, reach: float) -> Box:
    return (x - reach, y - reach, x + reach, y + reach)


def _node(view: GraphView, index: int, spot: Spot, best: Array, boxes: list[Box]) -> Node:
    """Return a node, with a label above or below where there is room for one."""
    x, y = spot
    if index >= len(view.refs):
        title = view.prompts[index - len(view.refs)]
        return Node(x, y, 4.0, "prompt", title, "", y)
    radius = 5.5 + 6.0 * float(np.sqrt(np.clip(best[index], 0, 1)))
    name = view.names[index]
    title = "\n".join((f"{name} ({view.kinds[index]})", view.refs[index], view.texts[index]))
    label = name if len(name) <= 24 else f"{name[:23]}…"
    half = LETTER * len(label) / 2
    for label_y in (y - radius - 5, y + radius + LINE):
        box = (x - half, label_y - LINE + 2, x + half, label_y + 2)
        inside = box[0] > 0 and box[2] < GRAPH_WIDTH and box[1] > 0 and box[3] < GRAPH_HEIGHT
        if inside and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            return Node(x, y, radius, view.kinds[index], title, label, label_y)
    return Node(x, y, radius, view.kinds[index], title, "", y)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _layout(embeddings: Array, pull: Array, rounds: int = 400) -> Array:
    """Return places in the drawing: a force layout that starts from the principal components."""
    count = len(embeddings)
    if count < 2:
        return np.full((count, 2), (GRAPH_WIDTH / 2, GRAPH_HEIGHT / 2))
    centred = embeddings - embeddings.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    places = _spread(_two(left[:, :2] * size[:2]))
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    alike = np.clip(unit @ unit.T, 0, 1) ** 3
    attraction = 1.1 * pull + 0.5 * alike
    np.fill_diagonal(attraction, 0)
    ideal = 0.9 / np.sqrt(count)
    for step in range(rounds):
        gap = places[:, None] - places[None]
        far = np.maximum(np.linalg.norm(gap, axis=2, keepdims=True), 1e-4)
        push = ideal**2 / far**2 * gap
        move = push.sum(axis=1) - (attraction[..., None] * gap * far / ideal).sum(axis=1)
        move -= 0.9 * places  # no disc drifts away
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        places = places + move / length * np.minimum(length, 0.06 * (1 - step / rounds))
    ranks = _spread(places)
    room = np.array((GRAPH_WIDTH, GRAPH_HEIGHT)) - 2 * GRAPH_MARGIN
    return GRAPH_MARGIN + (ranks + 1) / 2 * room


def _two(values: Array) -> Array:
    """Return two columns, whatever there are."""
    return np.pad(values, ((0, 0), (0, 2 - values.shape[1])))


def _spread(places: Array) -> Array:
    """Return places in [-1, 1], half by value and half by rank: the middle gets more room."""
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = 2 * (places - low) / np.maximum(high - low, 1e-9) - 1
    ranks = places.argsort(axis=0).argsort(axis=0) / max(1, len(places) - 1) * 2 - 1
    return np.asarray(0.5 * scaled + 0.5 * ranks)


@dataclass(frozen=True)
class HeatRow:
    """An expert's row of the heat map."""

    name: str
    kind: str
    cells: Sequence[float]
    """In [-1, 1]: the mean gain per reference prompt."""
    titles: Sequence[str]
    scores: Sequence[float]
    """In [-1, 1]: the mean gain per score."""
    score_titles: Sequence[str]


def draw_heat_map(view: GraphView) -> list[HeatRow]:
    """Return a row per expert, best mean gain first within its kind.

    Prompts are ordered by the expert that helps them most, so that specialists form a diagonal.
    """
    cells, scores = view.gains.mean(axis=2), view.gains.mean(axis=1)
    rows = sorted(range(len(cells)), key=lambda row: (view.kinds[row], -float(scores[row].mean())))
    columns = np.argsort(cells[rows].argmax(axis=0), kind="stable")
    cells = cells[:, columns]
    prompts = [view.prompts[column] for column in columns]
    return [
        HeatRow(
            name=view.names[row],
            kind=view.kinds[row],
            cells=_shares(cells)[row].tolist(),
            titles=[
                f"{view.names[row]} on “{prompt}”: {signed(gain)}"
                for prompt, gain in zip(prompts, cells[row], strict=True)
            ],
            scores=_shares(scores)[row].tolist(),
            score_titles=[
                f"{view.names[row]}, {name}: {signed(gain)}"
                for name, gain in zip(view.scores, scores[row], strict=True)
            ],
        )
        for row in rows
    ]


def _shares(values: Array) -> Array:
    """Return values in [-1, 1]: all but the most extreme fiftieth use the whole range."""
    full = max(float(np.quantile(np.abs(values), 0.98)), 1e-9)
    return np.asarray(np.clip(values / full, -1, 1))


@dataclass(frozen=True)
class Curve:
    """Something that was measured over the steps of a training."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class CurveDrawing:
    """A curve's lines and ticks."""

    name: str
    raw: str
    smooth: str
    area: str
    y_ticks: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]
    first: float
    last: float
    end: tuple[float, float]


def draw_curve(curve: Curve) -> CurveDrawing | None:
    """Return a curve as points of an SVG polyline, and smoothed; None if nothing is finite."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    finite = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[finite], values[finite]
    if not len(values):
        return None
    smooth = _smooth(values)
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - pad, high + pad
    span = float(steps[-1] - steps[0]) or 1.0
    x = CURVE_LEFT + (steps - steps[0]) / span * (CURVE_WIDTH - CURVE_LEFT - CURVE_RIGHT)
    floor = CURVE_HEIGHT - CURVE_BOTTOM

    def height(value: Array) -> Array:
        return np.asarray(floor - (value - low) / (high - low) * (floor - CURVE_TOP))

    marks = np.array([low + pad, (low + high) / 2, high - pad])
    line = _points(x, height(smooth))
    return CurveDrawing(
        name=curve.name,
        raw=_points(x, height(values)),
        smooth=line,
        area=f"{x[0]:.1f},{floor:.1f} {line} {x[-1]:.1f},{floor:.1f}",
        y_ticks=[(float(height(mark)), short(float(mark))) for mark in marks],
        x_ticks=[(float(x[0]), short(float(steps[0]))), (float(x[-1]), short(float(steps[-1])))],
        first=float(smooth[0]),
        last=float(smooth[-1]),
        end=(float(x[-1]), float(height(smooth)[-1])),
    )


def _smooth(values: Array) -> Array:
    """Return a centred moving average over a twelfth of the curve."""
    reach = max(1, len(values) // 24)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return np.asarray((total[stop] - total[start]) / (stop - start))


def _points(x: Array, y: Array, most: int = 600) -> str:
    step = max(1, len(x) // most)
    keep = sorted({*range(0, len(x), step), len(x) - 1})
    return " ".join(f"{x[index]:.1f},{y[index]:.1f}" for index in keep)


@dataclass(frozen=True)
class LeadRow:
    """The reference method's lead over one method, as a dot with its interval."""

    method: str
    y: float
    low: float
    mean: float
    high: float
    text: str
    is_clear: bool


@dataclass(frozen=True)
class LeadDrawing:
    """All leads on one axis."""

    rows: Sequence[LeadRow]
    zero: float
    ticks: Sequence[tuple[float, str]]
    width: float
    height: float


def draw_leads(summary: Summary, column: str = "reward") -> LeadDrawing | None:
    """Return the paired leads of the reference method; None if there is no expert to lead."""
    others = [method for method in summary.methods if column in method.lead]
    if not others:
        return None
    ends = [0.0] + [end for row in others for end in (row.lead[column].low, row.lead[column].high)]
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) or 1.0
    low, high = low - pad, high + pad
    right = LEAD_WIDTH - 150

    def place(value: float) -> float:
        return LEAD_LEFT + (value - low) / (high - low) * (right - LEAD_LEFT)

    rows = [
        LeadRow(
            method=row.method,
            y=LEAD_ROW * (index + 0.5),
            low=place(row.lead[column].low),
            mean=place(row.lead[column].mean),
            high=place(row.lead[column].high),
            text=f"{signed(row.lead[column].mean)}  "
            f"[{signed(row.lead[column].low)}, {signed(row.lead[column].high)}]",
            is_clear=row.lead[column].is_clear,
        )
        for index, row in enumerate(others)
    ]
    step = _nice((high - low) / 4)
    marks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    ticks = [
        (place(float(mark)), f"{mark:+.4g}".replace("-", MINUS) if mark else "0") for mark in marks
    ]
    return LeadDrawing(rows, place(0.0), ticks, LEAD_WIDTH, LEAD_ROW * len(rows) + 30)


def _nice(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, near `step`."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(min((1, 2, 5, 10), key=lambda factor: abs(factor * power - step)) * power)


def signed(value: float) -> str:
    """Write a number with its sign, three significant digits or so, and a true minus."""
    return ("+" if value >= 0 else MINUS) + short(abs(value))


def short(value: float) -> str:
    """Write a number in few letters."""
    size = abs(value)
    digits = 0 if size >= 100 or size == int(size) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", MINUS)
