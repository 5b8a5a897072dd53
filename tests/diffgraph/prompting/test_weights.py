"""Brackets weigh as AUTOMATIC1111's web UI weighs them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.prompting.weights import LARGEST, weighted


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red] [[cat]]", [("red", 1 / 1.1), (" ", 1), ("cat", 1 / 1.21)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red : .5 )", [("red ", 0.5)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1), (" c", 0.5)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),  # the two kinds do not nest
        (r"\(a\) \[b\] \\ \c", [(r"(a) [b] \ \c", 1)]),
        (r"(a \(b\):1.5)", [("a (b)", 1.5)]),
        ("(red, cat", [("red, cat", 1.1)]),
        ("red) cat", [("red) cat", 1)]),
        ("(red:x)", [("red:x", 1.1)]),
        ("(red:99)", [("red", LARGEST)]),
        ("(red:-2)", [("red", 0)]),
        ("()", []),
    ],
)
def test_what_each_part_weighs(text, fragments):
    (chunk,) = weighted(text).chunks
    assert [(part.text, pytest.approx(part.weight)) for part in chunk] == fragments


def test_break_begins_a_chunk_and_weights_reach_across():
    read = weighted("a (b BREAK c:1.2) BREAK BREAKFAST")
    assert [[(part.text, part.weight) for part in chunk] for chunk in read.chunks] == [
        [("a ", 1.0), ("b ", 1.2)],
        [(" c", 1.2), (" ", 1.0)],
        [(" BREAKFAST", 1.0)],
    ]
    assert not read.is_plain


def test_a_weight_of_one_weighs_nothing():
    assert weighted("a (red:1.0) cat").is_plain
    assert not weighted("a (red:1.01) cat").is_plain


@given(st.text(alphabet="ab (),[]:\\1.5BREAK", max_size=60))
def test_every_weight_is_within_bounds_and_every_word_is_there(text):
    chunks = weighted(text).chunks
    drawn = "".join(part.text for chunk in chunks for part in chunk)
    assert set(text) & {"a", "b"} <= set(drawn)
    assert all(0 <= part.weight <= LARGEST for chunk in chunks for part in chunk)
