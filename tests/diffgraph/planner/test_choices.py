"""A person's choices: how they are written, whom a name means, and what becomes of the plan."""

import math

import pytest

from diffgraph.errors import InputError
from diffgraph.planner.choices import NO_CHOICES, Choices
from diffgraph.planner.expert_names import ExpertNames
from diffgraph.prompting.syntax import read_prompt

NAMES = ExpertNames(
    {
        "hub:1@1": ["Film Noir v2.2", "noir_film.safetensors"],
        "hub:2@1": ["Neon Lights", "NeonLights_v1.safetensors"],
        "hub:3@1": ["Neon Knights", "styles/neon/NeonKnights.safetensors"],
        "hub:4@1": ["Twin", "twin_a.safetensors"],
        "hub:5@1": ["Twin", "twin_b.safetensors"],
        "other:6@1": ["Neon Cars", "cars.safetensors"],
        "hub:7@1": ["Style: 1990", "nineties.safetensors"],
        "hub:8@0": ["Film Noir v2.2", "noir_film.safetensors"],
    },
    {"other:6@1": "it is made for sd15, not for emoji64", "hub:8@0": "it is superseded"},
)


class TestNames:
    @pytest.mark.parametrize(
        ("text", "ref"),
        [
            ("hub:1@1", "hub:1@1"),
            ("film noir V2.2", "hub:1@1"),
            ("noir_film", "hub:1@1"),
            ("Noir Film.safetensors", "hub:1@1"),
            ("film n", "hub:1@1"),
            ("NEONKNIGHTS", "hub:3@1"),
            ("styles/neon/NeonKnights.safetensors", "hub:3@1"),
            ("Styles/neon/neonk", "hub:3@1"),
            ("twin_b", "hub:5@1"),
            ("  neon   lights ", "hub:2@1"),
        ],
    )
    def test_a_reference_a_name_a_file_or_a_beginning_is_found(self, text, ref):
        assert NAMES.find(text) == ref

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("neon", ["may be", "Neon Lights (hub:2@1)", "Neon Knights (hub:3@1)"]),
            ("Twin", ["may be", "hub:4@1", "hub:5@1", "reference"]),
            ("Neon Lihgts", ["no expert is called 'Neon Lihgts'", "Neon Lights"]),
            ("knights", ["no expert is called", "near to it: Neon Knights"]),
            ("neon cars", ["Neon Cars (other:6@1) cannot be merged", "sd15"]),
            ("other:6@1", ["sd15"]),
            ("hub:8@0", ["superseded"]),
            ("", ["no expert is called ''"]),
            ("x" * 100_000, ["no expert is called"]),
            ("\x1b[2J", ["no expert is called"]),
        ],
    )
    def test_who_is_not_found_is_told_in_a_line(self, text, says):
        with pytest.raises(InputError) as told:
            NAMES.find(text)
        assert [word for word in says if word not in str(told.value)] == []
        assert len(str(told.value)) < 400
        assert "\x1b" not in str(told.value)

    def test_who_cannot_be_merged_may_be_left_out(self):
        assert NAMES.find("neon cars", may_be_unusable=True) == "other:6@1"


class TestWriting:
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("noir", ("noir", None)),
            ("noir:0.8", ("noir", 0.8)),
            ("noir: -.5", ("noir", -0.5)),
            ("hub:1@1", ("hub:1@1", None)),
            ("hub:1@1:1e-1", ("hub:1@1", 0.1)),
            ("Style: Noir", ("Style: Noir", None)),
        ],
    )
    def test_a_number_behind_a_colon_is_a_strength(self, written, read):
        assert Choices.of([written]).experts == (read,)

    def test_a_program_says_it_by_name(self):
        assert Choices.of({"noir": 1, "hub:1@1": None}) == Choices(
            (("noir", 1.0), ("hub:1@1", None))
        )
        assert Choices.of() == NO_CHOICES

    @pytest.mark.parametrize(
        "experts",
        [["noir:nan"], ["noir:inf"], ["noir:1e400"], {"noir": math.nan}, {"noir": "much"}, "noir"],
    )
    def test_what_is_no_strength_is_refused(self, experts):
        with pytest.raises(InputError):
            Choices.of(experts)

    def test_a_long_text_takes_no_longer(self):
        assert Choices.of([":" * 100_000 + " " * 100_000]).experts[0][1] is None


class TestFinding:
    def test_names_become_references(self):
        found = Choices.of(["noir_film:0.5", "neon k"], ["twin_a", "neon cars"]).found_in(NAMES)
        assert found.experts == (("hub:1@1", 0.5), ("hub:3@1", None))
        assert found.without == ("hub:4@1", "other:6@1")

    def test_one_expert_twice_at_one_strength_is_one(self):
        found = Choices.of(["noir_film:0.5", "film noir v2.2:0.5"]).found_in(NAMES)
        assert found.experts == (("hub:1@1", 0.5),)

    @pytest.mark.parametrize(
        ("choices", "says"),
        [
            (Choices.of(["noir_film:0.5", "hub:1@1:0.7"]), "Film Noir v2.2 (hub:1@1) is asked"),
            (Choices.of(["noir_film:0.5", "hub:1@1"]), "twice"),
            (Choices.of(["noir_film"], ["hub:1@1"]), "asked for and left out"),
        ],
    )
    def test_choices_that_contradict_each_other_are_refused(self, choices, says):
        with pytest.raises(InputError, match=says.replace("(", r"\(").replace(")", r"\)")):
            choices.found_in(NAMES)


class TestTags:
    """`<lora:name:0.8>` in a prompt."""

    def settled(self, prompt: str, choices: Choices = NO_CHOICES) -> Choices:
        return choices.found_in(NAMES).with_tags(read_prompt(prompt).tags, NAMES)

    def test_become_experts_at_their_strengths(self):
        found = self.settled("a cat <lora:NeonKnights:0.8> <lora:noir_film> <lyco:twin_a:-.5>")
        assert found.experts == (("hub:3@1", 0.8), ("hub:1@1", 1.0), ("hub:4@1", -0.5))
        assert found.notes == ()

    @pytest.mark.parametrize(
        ("tag", "says"),
        [
            ("<lora:NeonNights:0.8>", ["<lora:NeonNights:0.8> is not obeyed", "Neon"]),
            ("<lora:neon:0.8>", ["may be", "Neon Lights", "Neon Knights"]),
            ("<lora:cars:0.8>", ["Neon Cars", "sd15"]),
            ("<lora:noir_film:1e300>", ["cannot be merged at 1e+300"]),
            ("<lora:noir_film:0.8> <lora:noir_film:0.5>", ["<lora:noir_film:0.5>", "at 0.8"]),
            ("<lora:noir_film:0.8:0.5>", ["text encoder is merged at the same 0.8"]),
            (f"<lora:{'x' * 100_000}:0.8>", ["is not obeyed: no expert is called"]),
            ("<lora:\x1b[2J:0.8>", ["is not obeyed"]),
        ],
    )
    def test_that_cannot_be_obeyed_are_told_and_the_others_are(self, tag, says):
        found = self.settled(f"a cat <lora:twin_a:0.3> {tag}")
        assert found.experts[0] == ("hub:4@1", 0.3)
        (note,) = found.notes
        assert [word for word in says if word not in note] == []
        assert len(note) < 400
        assert "\x1b" not in note

    def test_count_after_what_is_asked_for_outside_of_the_prompt(self):
        choices = Choices.of(["noir_film:0.5", "twin_a"], ["twin_b"])
        found = self.settled("<lora:noir_film:1> <lora:twin_a:0.3> <lora:twin_b:1>", choices)
        assert found.experts == (("hub:1@1", 0.5), ("hub:4@1", 0.3))
        noir, twin = found.notes
        assert "asked for at 0.5" in noir
        assert "not wanted" in twin

    def test_are_enough_for_only(self):
        assert self.settled("<lora:noir_film:1>", Choices.of(only=True)).only
        with pytest.raises(InputError, match="none is asked for"):
            self.settled("a cat", Choices.of(only=True))
