"""Patterns of modules' names against the expressions that PEFT runs."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraph.experts.name_patterns import NamePatterns

NAMES = [
    "proj_out",
    "single_transformer_blocks.0.proj_out",
    "transformer_blocks.11.attn.to_q",
    "transformer_blocks.1.attn.to_out.0",
    "model.layers.7.self_attn.q_proj",
    "to_q",
    "blocks_0_attnxto_q",
    "_",
    "",
]


def by_peft(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def means(pattern: str, name: str) -> bool:
    return NamePatterns([pattern]).first([name]) is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "pattern",
    [
        "to_q", "attn.to_q", ".", "..", "t.._q", "^blocks.0.attn.to_q", "^.",
        "^proj_out", "^to_q$", "out", r"transformer_blocks\.1\..*",
        r".*\.attn\.to_(q|k|v)", "to_(?:q|out.0)", r"transformer_blocks.\d+.attn.to_q",
        r"layers\.[0-6]\..*", r"layers\.[^0-6]\..*", ".*proj.*", ".+_blocks.+to_q",
        r"^(single_)?transformer_blocks\.0\.proj_out", r"\w+_out", "(a|o|u|t)*",
        "(to|_|q)+", "a|", "(q|k)_proj|to_q",
        "(o+)+$", "t{1}o_q", "x*?", "t?o?_?q?", "[tq].*?[tq]", r"[\w.]+", "",
    ],
)  # fmt: skip
def test_patterns_that_people_write(pattern: str, name: str) -> None:
    assert means(pattern, name) == by_peft(pattern, name)


ATOMS = st.sampled_from(["a", "b", r"\.", ".", "[ab]", "[^a]", "_"])
GROUPS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join).map("({})".format)
        | st.tuples(inner, inner).map(lambda both: "(?:{}|{})".format(*both))
    ),
    max_leaves=5,
)
PATTERNS = st.lists(
    st.tuples(GROUPS, st.sampled_from(["", "?", "*", "+", "*?"])).map("".join), max_size=4
).map("".join)


@settings(max_examples=200, deadline=None)
@given(PATTERNS, st.text("ab._", max_size=8))
def test_any_pattern(pattern: str, name: str) -> None:
    assert means(pattern, name) == by_peft(pattern, name)


@pytest.mark.parametrize(
    "pattern",
    [r"(?=a)a", r"(a)\1", "(a", "a)", "*", "[", "\\", "[z-a]x", "(" * 150, "((a{99}){99}){99}"],
)
def test_what_is_not_understood_is_a_name(pattern: str) -> None:
    assert not means(pattern, "a" * 40)
    assert means(pattern, f"x.{pattern}") == ("." not in pattern)


def test_patterns_that_would_take_for_ever_do_not() -> None:
    start = time.process_time()
    assert not means("(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)(.|.)" * 3 + "x", "a" * 80)
    assert not means(".*" * 60 + "x", "a" * 80)
    assert not means("(a+)+$", "a" * 80 + "x")
    assert time.process_time() - start < 5


def test_so_many_shapes_that_looking_takes_long_are_refused() -> None:
    shapes = [format(number, "07b").replace("0", "a").replace("1", ".") for number in range(101)]
    NamePatterns(shapes[:100])
    with pytest.raises(ValueError, match="names of 7 characters have dots at more than 100"):
        NamePatterns(shapes)


def test_the_first_pattern_that_fits_is_taken() -> None:
    patterns = NamePatterns(["zzz", ".*to_q", "to_q", "attn.to_q"])
    assert patterns.first(["blocks.0.attn.to_q"]) == ".*to_q"
    assert patterns.first(["blocks.0.attn.to_k"]) is None
    assert NamePatterns(["to_q", ".*to_q"]).first(["other", "attn.to_q"]) == "to_q"
