import numpy as np
import pytest

from diffgraph.evaluation.drawing import (
    EDGES_EACH,
    GRAPH_HEIGHT,
    GRAPH_WIDTH,
    Curve,
    GraphView,
    draw_curve,
    draw_graph,
    draw_heat_map,
    draw_leads,
    short,
    signed,
)
from diffgraph.evaluation.statistics import Interval, MethodSummary, Summary
from diffgraph.scoring.reward import SCORE_NAMES


def view(gains, alike=()):
    experts, prompts = gains.shape[:2]
    embeddings = np.random.default_rng(0).normal(size=(experts + prompts, 64))
    for one, other in alike:
        embeddings[other] = embeddings[one]
    return GraphView(
        refs=[f"hub:{n}@1" for n in range(experts)],
        kinds=["peft"] * experts,
        names=[f"expert {n}" for n in range(experts)],
        texts=["does it"] * experts,
        embeddings=embeddings[:experts],
        prompts=[f"prompt {n}" for n in range(prompts)],
        prompt_embeddings=embeddings[experts:],
        gains=gains,
        scores=SCORE_NAMES,
    )


def far(drawing, one, other):
    places = {node.title.splitlines()[0].split(" (")[0]: (node.x, node.y) for node in drawing.nodes}
    return np.linalg.norm(np.subtract(places[one], places[other]))


def test_every_node_is_inside_and_the_best_gains_are_the_edges():
    gains = np.random.default_rng(1).normal(1.0, 0.2, size=(12, 9, 5))
    drawing = draw_graph(view(gains))
    assert len(drawing.nodes) == 12 + 9
    assert all(0 < node.x < GRAPH_WIDTH and 0 < node.y < GRAPH_HEIGHT for node in drawing.nodes)
    assert len(drawing.edges) == 12 * EDGES_EACH
    assert all(0 < edge.weight <= 1 for edge in drawing.edges)


def test_an_expert_that_gains_nowhere_has_no_edges():
    gains = np.ones((3, 4, 5))
    gains[2] = -1
    assert len(draw_graph(view(gains)).edges) == 2 * EDGES_EACH


def test_what_is_described_alike_is_drawn_near():
    drawing = draw_graph(view(np.zeros((10, 6, 5)), alike=[(0, 1)]))
    others = np.mean([far(drawing, "expert 0", f"expert {n}") for n in range(2, 10)])
    assert far(drawing, "expert 0", "expert 1") < 0.5 * others


def test_a_gain_pulls_an_expert_to_its_prompt():
    gains = np.full((8, 8, 5), -1.0)
    for n in range(8):
        gains[n, n] = 2.0
    drawing = draw_graph(view(gains))
    own = np.mean([far(drawing, f"expert {n}", f"prompt {n}") for n in range(8)])
    other = np.mean([far(drawing, f"expert {n}", f"prompt {(n + 3) % 8}") for n in range(8)])
    assert own < 0.6 * other


def test_labels_do_not_cover_each_other():
    drawing = draw_graph(view(np.random.default_rng(2).normal(size=(40, 20, 5))))
    boxes = [
        (node.x - 3 * len(node.label), node.label_y - 9, node.x + 3 * len(node.label), node.label_y)
        for node in drawing.nodes
        if node.label
    ]
    assert len(boxes) > 10
    for n, a in enumerate(boxes):
        for b in boxes[n + 1 :]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_specialists_form_a_diagonal_in_the_heat_map():
    gains = np.zeros((4, 4, 5))
    for expert, prompt in enumerate((2, 0, 3, 1)):
        gains[expert, prompt] = 4 - expert  # the order of rows
    rows = draw_heat_map(view(gains))
    assert [row.name for row in rows] == [f"expert {n}" for n in range(4)]
    assert [int(np.argmax(row.cells)) for row in rows] == [0, 1, 2, 3]
    assert "prompt 2" in rows[0].titles[0]
    assert all(len(row.scores) == 5 for row in rows)


def test_a_curve_ends_where_its_values_do():
    rising = draw_curve(Curve("reward", range(100), np.linspace(0, 1, 100).tolist()))
    xs, ys = zip(*(map(float, point.split(",")) for point in rising.smooth.split()), strict=True)
    assert list(xs) == sorted(xs)
    assert ys[0] > ys[-1]  # upwards on a screen
    assert (xs[-1], ys[-1]) == pytest.approx(rising.end, abs=0.1)
    flat = draw_curve(Curve("flat", [0, 1], [3.0, 3.0]))
    assert flat.first == flat.last == 3.0


def summary(**leads):
    blank = Interval(mean=0, low=0, high=0)
    rows = [
        MethodSummary(method=name, prompts=3, win_rate=0.5, scores={"reward": blank},
                      lead={"reward": Interval(mean=mean, low=low, high=high)})
        for name, (mean, low, high) in leads.items()
    ]  # fmt: skip
    return Summary(reference="diffgraph", seeds=1, methods=tuple(rows))


def test_a_lead_is_clear_when_its_interval_lies_on_one_side_of_zero():
    drawing = draw_leads(summary(base=(0.5, 0.3, 0.7), uniform=(0.1, -0.1, 0.3)))
    base, uniform = drawing.rows
    assert base.is_clear
    assert drawing.zero < base.low < base.mean < base.high
    assert not uniform.is_clear
    assert uniform.low < drawing.zero < uniform.high
    assert "0" in [text for _, text in drawing.ticks]
    assert draw_leads(summary()) is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (2, "2"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_are_short_and_signed(value, text):
    assert short(value) == text
    assert signed(value) == f"+{text}"
    assert signed(-value) == f"\N{MINUS SIGN}{text}"
