import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.agents import OfflineAgent
from diffgraph.agents.nouns import Nouns
from diffgraph.errors import EmptyPrompt, UnknownWords
from diffgraph.families.vocabulary import Vocabulary, everyday_nouns


def parse(prompt: str):
    return OfflineAgent().parse(prompt)


@pytest.mark.parametrize(
    ("prompt", "subject", "attributes"),
    [
        ("I'd love a picture of a happy dog in the snow", "happy dog", ("snow",)),
        ("a smiling robot, pencil sketch, at night", "smiling robot", ("pencil sketch", "night")),
        ("at night, a dog", "dog", ("night",)),
        ("polka dot background, an owl", "owl", ("polka dot background",)),
        ("a house under the stars", "house", ("under the stars",)),
        ("a pencil sketch of a castle", "castle", ("pencil sketch",)),
        ("a fox with a red frame and polka dots", "fox", ("red frame", "polka dots")),
        ("an old ship, in black and white", "old ship", ("black and white",)),
        ("a neon cat", "neon cat", ("neon",)),
        ("a swan made of gold", "swan", ("made of gold",)),
        ("a goat standing on a hill", "goat", ("hill",)),
        ("a tiger sticker", "tiger", ("sticker",)),
        (
            "Could you please draw me a train? It should be at sunset. Make it look like an old"
            " photograph.",
            "train",
            ("sunset", "old photograph"),
        ),
        ("a cat\x1b[31m, at night", "cat", ("night",)),
        ("pixel art", "pixel art", ("pixel art",)),
        ("a snowy night", "snowy night", ("snowy night",)),
        ("what would a cup look like as a stained glass window?", "cup", ("stained glass window",)),
    ],
)
def test_finds_the_subject_and_what_else_is_asked_for(prompt, subject, attributes):
    request = parse(prompt)
    assert request.summary.split(", ")[0] == subject
    assert request.attributes == attributes


def test_the_summary_holds_the_overall_style_but_not_the_scene():
    assert parse("a smiling robot, pencil sketch, at night").summary == (
        "smiling robot, pencil sketch"
    )


def test_community_syntax_is_not_content():
    request = parse(
        "(masterpiece:1.2), best quality, <lora:neon:0.8> a ((red fox:1.1)), [pixel art], night"
        " BREAK 8k\nNegative prompt: ugly, blurry, robot\nSteps: 20, Sampler: Euler"
    )
    assert request.summary == "red fox, pixel art"
    assert request.attributes == ("pixel art", "night")


@pytest.mark.parametrize(
    ("prompt", "subject", "attributes"),
    [
        ("1girl, solo, red hair, looking at viewer", "girl", ("red hair",)),
        ("[wolf:robot:0.5] in the snow", "wolf", ("robot", "snow")),
        ("[cat|dog], night", "cat", ("dog", "night")),
        ("a fox [in the rain:0.3]", "fox", ("rain",)),
        ("close up, a bride, (sepia:0.3) (night:0.8)", "bride", ("close up", "sepia", "night")),
        ("fox \\(animal\\), <lyco:a:1>, <hypernet:b:0.4> snow", "fox animal", ("snow",)),
        ("a cat AND a hat BREAK at night", "cat", ("hat", "night")),
        ("кошка, снег", "кошка", ("снег",)),
        ("机甲少女\uff0c霓虹灯", "机甲少女", ("霓虹灯",)),
    ],
)
def test_the_notation_of_image_tools_is_understood(prompt, subject, attributes):
    request = parse(prompt)
    assert request.summary.split(", ")[0] == subject
    assert request.attributes == attributes


@pytest.mark.parametrize(
    "prompt",
    ["a cat without a hat", "a cat, no text", "a cat --no hat --ar 16:9", "a cat, not at night"],
)
def test_what_is_to_be_left_out_is_not_asked_for(prompt):
    request = parse(prompt)
    assert (request.summary, request.attributes) == ("cat", ())


@pytest.mark.parametrize(
    "prompt",
    ["", "  \n", ",,,", "()", "<lora:x:1>", "negative prompt: cat", "the of a", "\u200b\x00"],
)
def test_nothing_to_draw_is_refused(prompt):
    with pytest.raises(EmptyPrompt):
        parse(prompt)


class TestWithAVocabulary:
    agent = OfflineAgent(Vocabulary(frozenset({"dog", "Snow", "smiling"})))

    def test_names_the_words_it_does_not_know(self):
        assert self.agent.parse("a zorkish dog in the snow").unknown_words == ("zorkish",)

    def test_knows_other_forms_of_a_word(self):
        assert self.agent.parse("smiles, snowy dogs").unknown_words == ()

    def test_refuses_a_prompt_without_a_known_word_and_names_them(self):
        with pytest.raises(UnknownWords, match="'xylo', 'qwrt'"):
            self.agent.parse("a xylo qwrt")


def test_any_word_may_be_known_without_a_vocabulary():
    assert parse("xylo").unknown_words == ()


@pytest.mark.parametrize(
    ("subject", "kinds"),
    [
        ("ambulance", ("vehicle",)),
        ("happy dogs", ("animal",)),
        ("hot dog", ("food",)),
        ("cat face", ("animal",)),
        ("smiling face with sunglasses", ("face",)),
        ("dog and house", ("animal", "place")),
        ("man juggling", ("person",)),
        ("gizmotron", ()),
        ("", ()),
    ],
)
def test_knows_what_kind_of_thing_a_subject_is(subject, kinds):
    assert Nouns(everyday_nouns()).kinds_of(subject) == kinds


def test_a_familys_own_nouns_are_the_ones_that_count():
    agent = OfflineAgent(Vocabulary(nouns={"robot": ("mecha",), "food": ("space cake",)}))
    assert agent.parse("a red mecha, at night").broader == ("robot",)
    assert agent.parse("a space cake").broader == ("food",)
    assert agent.parse("an ambulance").broader == ()


@pytest.mark.parametrize("junk", ["(" * 3000, "a " * 5000, "[a|b" * 800, "<" * 3000, "and " * 900])
def test_a_hostile_prompt_is_read_or_refused_quickly(junk):
    try:
        request = parse("a cat, " + junk)
    except EmptyPrompt:
        return
    assert len(request.attributes) <= 12


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        request = parse(text)
    except EmptyPrompt:
        return
    assert request.summary
    assert request.prompt == text
    assert all(part.isprintable() for part in (request.summary, *request.attributes))
