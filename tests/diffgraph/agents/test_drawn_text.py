"""What is drawn for a prompt: as written, or in the family's words, with trigger words once."""

import pytest

from diffgraph.agents.drawn_text import drawn_text
from diffgraph.evaluation.prompt_sets import load_prompts
from diffgraph.families import get_family
from diffgraph.families.vocabulary import Vocabulary

ANY = Vocabulary()
FEW = get_family("emoji64").vocabulary()
SEPIA, KEY = ("Sepia", ("in sepia", "sepia toned")), ("Zeppo", ("zeppo9x",))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a fox", "a fox, in sepia, zeppo9x"),
        ("a fox, ", "a fox, in sepia, zeppo9x"),
        ("a (zeppo9x:1.2) fox", "a (zeppo9x:1.2) fox, in sepia"),
        ("a fox <lora:zeppo9x:0.8> in snow", "a fox in snow, in sepia, zeppo9x"),
        ("zeppo9x, sepia toned", "zeppo9x, sepia toned"),
        ("a fox\nNegative prompt: hat", "a fox, in sepia, zeppo9x\nNegative prompt: hat"),
        ("a fox Negative prompt: zeppo9x", "a fox, in sepia\nNegative prompt: zeppo9x"),
        ("a fox BREAK snow", "a fox BREAK snow, in sepia, zeppo9x"),
        ("a [[fox", "in sepia, zeppo9x, a [[fox"),
        ("", "in sepia, zeppo9x"),
    ],
)
def test_trigger_words_come_once_behind_what_is_written(prompt: str, text: str) -> None:
    assert drawn_text(prompt, ANY, [SEPIA, KEY]).text == text


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox,  in the SNOW ",
        "I'd love a picture of a happy dog 🐕 without a zeppelin",
        "(fox:1.3) [snow] BREAK moon\nNegative prompt: hat\nSteps: 20, Clip skip: 2",
    ],
)
def test_a_family_of_many_words_draws_what_is_written(prompt: str) -> None:
    assert drawn_text(prompt, ANY, []).text == prompt


@pytest.mark.parametrize("name", ["bench", "train", "reference"])
def test_a_prompt_in_the_familys_words_stays_byte_for_byte(name: str) -> None:
    prompts = [prompt.text for prompt in load_prompts(name, family="emoji64")]
    assert [drawn_text(prompt, FEW, []).text for prompt in prompts] == prompts


@pytest.mark.parametrize(
    ("prompt", "text", "left"),
    [
        ("I'd love a picture of a happy dog in the snow", "happy dog, snow", ""),
        ("how about a spooky ghost in the moonlight", "ghost, moonlight", "spooky"),
        ("a fox 🦊 in the snow", "fox, snow", "🦊"),
        ("masterpiece, (fox:1.3) in a zeppelin BREAK snow", "(fox:1.3) BREAK snow", "zeppelin"),
        ("make a pumpkin lantern that glows", "pumpkin lantern that glow", ""),
        ("a fox without a zeppelin", "fox", "zeppelin"),
    ],
)
def test_a_family_of_few_words_draws_what_is_asked_for(prompt: str, text: str, left: str) -> None:
    told = drawn_text(prompt, FEW, [])
    assert told == (text, (f"not drawn: {left}",) if left else ())
    assert drawn_text(told.text, FEW, []) == (text, ())  # it is in its words now


def test_a_text_that_is_too_long_to_be_read_is_not_cut_in_silence() -> None:
    prompt = "a fox, " + "soft fur, " * 1_000
    assert drawn_text(prompt, FEW, []) == (prompt, ())


def test_a_text_without_any_known_word_stays() -> None:
    assert drawn_text("xqzzt", FEW, []).text == "xqzzt"


def test_a_trigger_word_that_the_family_cannot_draw_is_said_and_not_drawn() -> None:
    told = drawn_text("a fox", FEW, [SEPIA, KEY])
    assert told.text == "a fox, in sepia"
    assert told.notes == (
        "trigger word added for Sepia: in sepia",
        "Zeppo's trigger word is none of the family's, not drawn: zeppo9x",
    )
