"""A prompt is read as people write it, in linear time, and nothing is dropped in silence."""

import doctest
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.prompting.syntax import ExpertTag, WrittenPrompt, read_prompt

DOCS = Path(__file__).parents[3] / "docs" / "prompts.md"

PASTED = """\
masterpiece, a (red fox:1.2) <lora:ink_v2:0.6>
Negative prompt: blurry, (bad hands:1.4)
Steps: 25, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1, Size: 512x512, Clip skip: 2, Version: 1.10"""


@pytest.mark.parametrize("text", ["a cat", "", " a cat\n at  night ", "a (red:1.3) [cat] BREAK x"])
def test_what_needs_no_reading_stays_letter_for_letter(text):
    assert read_prompt(text) == WrittenPrompt(text)


@pytest.mark.parametrize(
    ("tag", "name", "strength", "text_strength"),
    [
        ("<lora:ink:0.8>", "ink", 0.8, None),
        ("<lora:ink>", "ink", 1.0, None),
        ("<LORA: ink (v2) :.5>", "ink (v2)", 0.5, None),
        ("<lyco:ink:-1>", "ink", -1.0, None),
        ("<lora:ink:0.8:0.5>", "ink", 0.8, 0.5),
        ("<lora:ink:te=0.3:unet=0.2>", "ink", 0.2, 0.3),
    ],
)
def test_a_tag_is_an_expert_and_nothing_to_draw(tag, name, strength, text_strength):
    read = read_prompt(f"a cat, {tag}, night")
    assert read == WrittenPrompt(
        "a cat, night", tags=(ExpertTag(name, strength, text_strength, tag),)
    )


def test_what_stood_round_a_tag_leaves_no_holes():
    assert read_prompt("<lora:a:1> cat <lora:b:1><lora:c:1>\n<lora:d:1>, hat,").text == "cat, hat"
    assert read_prompt("cat <lora:a:1> hat").text == "cat hat"
    assert read_prompt("<lora:a:1>").text == ""


@pytest.mark.parametrize("strength", ["x", "nan", "inf", "1e999", "", "0.5:0.5:0.5", "lbw=OUT"])
def test_a_strength_that_is_none_is_said(strength):
    read = read_prompt(f"<lora:ink:{strength}>")
    assert [tag.name for tag in read.tags] == ["ink"]
    assert len(read.unsupported) == 1
    assert "is not obeyed" in read.unsupported[0]


@pytest.mark.parametrize(
    ("written", "drawn", "said"),
    [
        ("[wolf:robot:0.5] in snow", "wolf, robot in snow", "[wolf:robot:0.5]: steps do not"),
        ("[cat|dog], night", "cat, dog, night", "[cat|dog]: steps do not alternate"),
        ("a fox [in the rain:0.3]", "a fox in the rain", "[in the rain:0.3]: steps"),
        ("[a (b:1.2)|c]", "a (b:1.2), c", "[a (b:1.2)|c]: steps"),
        ("cat AND hat", "cat, hat", "AND: not composed"),
        ("cat, embedding:bad-x, hat", "cat, hat", "embedding:bad-x: textual inversions"),
        ("cat <cat-toy>", "cat", "<cat-toy>: textual inversions are not supported"),
        ("cat <hypernet:x:1>", "cat", "<hypernet:x:1>: hypernetworks are not supported"),
        ("cat <wild:x>", "cat", "<wild:x>: such tags are not supported; left out"),
        ("cat <lora::1>", "cat", "<lora::1>: names no expert; left out"),
        ("cat <lora:x:0.5, hat", "cat, hat", "<lora:x:0.5: not closed; read as <lora:x:0.5>"),
        ("(cat:nan)", "(cat:nan)", "'nan' is no weight: it is drawn"),
        ("(cat:1e9)", "(cat:1e9)", "weights are held between 0 and 10"),
        ("(cat:-1)", "(cat:-1)", "weights are held between 0 and 10"),
        ("((cat", "((cat", "a ( is not closed: it weighs all that follows"),
        ("cat]", "cat]", "a ] closes nothing: it is drawn"),
    ],
)
def test_what_is_not_obeyed_is_said(written, drawn, said):
    read = read_prompt(written)
    assert read.text == drawn
    assert [line.startswith(said) for line in read.unsupported] == [True]


def test_what_only_looks_like_syntax_is_drawn():
    for text in ("a <3 b", "3 < 4 > 2", "a:b", "[a:b]", r"\(a\) \<lora\>", "BRANDY and SAND"):
        assert read_prompt(text) == WrittenPrompt(text)


def test_all_that_another_tool_wrote_can_be_pasted():
    read = read_prompt(PASTED)
    assert read.text == "masterpiece, a (red fox:1.2)"
    assert read.negative == "blurry, (bad hands:1.4)"
    assert [(tag.name, tag.strength) for tag in read.tags] == [("ink_v2", 0.6)]
    assert read.clip_skip == 2
    assert [line.startswith("Steps: 25, Sampler") for line in read.unsupported] == [True]


def test_negatives_may_stand_anywhere_and_name_no_experts():
    read = read_prompt("a cat. NEGATIVE  prompt : dog <lora:x:1>\nnegative prompt: cup [a|b],")
    assert (read.text, read.negative, read.tags) == ("a cat.", "dog, cup a, b", ())
    assert read.unsupported == (
        "[a|b]: steps do not alternate; all of it is drawn",
        "<lora:x:1>: not obeyed in a negative prompt",
    )


LONG = 100_000  # letters
HOSTILE = {
    "round": lambda n: "(" * n,
    "square": lambda n: "[" * n,
    "closing": lambda n: ")]" * (n // 2),
    "nested": lambda n: "(" * (n // 10) + "cat" + ":1.1)" * (n // 10),
    "switches": lambda n: "[a:" * (n // 10) + "b:1]" + "]" * (n // 10),
    "alternatives": lambda n: "[a|" * (n // 10) + "]" * (n // 10),
    "spaces": lambda n: "a" + " " * n + "b",
    "lines": lambda n: "\n" * n,
    "commas": lambda n: ", " * (n // 2),
    "tags": lambda n: "<lora:a:1>" * (n // 10),
    "open tags": lambda n: "<lora:" * (n // 6),
    "negatives": lambda n: "negative prompt:" * (n // 16),
    "negative spaces": lambda n: "negative " * (n // 9),
    "settings": lambda n: "steps: 1\n" * (n // 9),
    "weights": lambda n: "(a:1.1" * (n // 6),
    "colons": lambda n: ": 1" * (n // 3),
    "escapes": lambda n: "\\(" * (n // 2),
    "breaks": lambda n: "BREAK " * (n // 6),
    "both": lambda n: "AND " * (n // 4),
    "inversions": lambda n: "embedding:" * (n // 10),
}


def seconds(text):
    """The processor's, not the clock's: the least of some runs."""
    taken = []
    for _ in range(3):
        start = process_time()
        read_prompt(text)
        taken.append(process_time() - start)
    return min(taken)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_work_grows_with_the_length(name):
    short, long = (seconds(HOSTILE[name](length)) for length in (LONG // 8, LONG))
    assert long < 32 * short + 0.2, "eight times the text: 64 times if it were quadratic"


@given(st.text(alphabet="ab ,:|()[]<>\\\n0.5", max_size=60) | st.text(max_size=30))
def test_any_text_is_read_and_its_words_are_drawn_or_named(text):
    read = read_prompt(text)
    kept = "".join((read.text, read.negative, *read.unsupported, *(t.written for t in read.tags)))
    assert set(filter(str.isalpha, text)) <= set(kept)


def test_the_example_in_the_docs_is_so():
    told = doctest.testfile(str(DOCS), False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert told.attempted
    assert not told.failed
