import pytest

from diffgraph.agents.words import content_stems


@pytest.mark.parametrize(
    ("one", "other"),
    [("line art", "lineart"), ("Line-Art", "lineart"), ("snowy", "snowing"), ("grey", "gray")],
)
def test_two_ways_of_writing_are_one_word(one, other):
    assert content_stems(one) == content_stems(other)


@pytest.mark.parametrize(
    ("one", "other"), [("line art", "white lines"), ("glasses", "a wine glass"), ("star", "stairs")]
)
def test_what_only_looks_alike_is_another_word(one, other):
    assert not content_stems(one) & content_stems(other)
