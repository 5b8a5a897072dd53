"""Do captions name what they should, in more than one way?"""

import numpy as np
import pytest

from diffgraph.families.emoji64 import vocabulary
from recipes.emoji64 import captions
from recipes.emoji64.art import STYLES, Subject
from recipes.emoji64.treatments import TREATMENTS

FOX = Subject("1f98a", "fox", ("animal", "sly"), "animals")


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("dog face", "animals", "dog"),
        ("grinning face", "faces", "grinning face"),
        ("man: curly hair", "people", "man with curly hair"),
        ("keycap: 1", "symbols", "keycap 1"),
        ("a button (blood type)", "symbols", "a button"),
        ("men\u2019s room", "symbols", "men's room"),
    ],
)
def test_names_are_written_as_people_do(name: str, group: str, expected: str) -> None:
    assert captions.subject_name(Subject("0", name, (), group)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fox", "a fox"),
        ("owl", "an owl"),
        ("french fries", "french fries"),
        ("bread", "bread"),
        ("octopus", "an octopus"),
        ("woman with curly hair", "a woman with curly hair"),
        ("8 ball", "8 ball"),
    ],
)
def test_articles(name: str, expected: str) -> None:
    assert captions.with_article(name) == expected


@pytest.mark.parametrize("style", [None, *STYLES])
def test_a_caption_names_everything(style: str | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = captions.caption(FOX, style, ["sepia", "red_frame"], rng)
        assert "fox" in text
        for name in ("sepia", "red_frame"):
            assert any(phrase in text for phrase in TREATMENTS[name].phrases)
        if style is not None:
            assert any(phrase in text for phrase in captions.STYLE_PHRASES[style])


def test_captions_vary_with_the_generator_only() -> None:
    def some(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [captions.caption(FOX, "flat", ["night"], rng) for _ in range(30)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert len(set(some(1))) > 12


def test_tags_can_be_kept_out() -> None:
    rng = np.random.default_rng(0)
    texts = [captions.caption(FOX, None, [], rng, tags=False) for _ in range(100)]
    assert not any("animal" in text or "sly" in text for text in texts)


def test_the_plain_caption_is_always_the_same() -> None:
    assert captions.plain_caption(FOX) == "a fox"
    assert captions.plain_caption(FOX, "flat") == "a fox, flat icon"


def test_the_shipped_word_list_knows_every_phrase() -> None:
    phrases = [phrase for treatment in TREATMENTS.values() for phrase in treatment.phrases]
    phrases += [phrase for choices in captions.STYLE_PHRASES.values() for phrase in choices]
    for phrase in phrases:
        assert set(captions.words(phrase)) <= vocabulary().known, phrase
