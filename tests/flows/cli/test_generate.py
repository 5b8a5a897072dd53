"""`generate` and `plan`: what a person decides, and what becomes of it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.merging.plan_files import read_plan
from tests.flows.cli.test_cli import ROOT, only_line

SEPIA, NIGHT = "emojihub:2101@21011", "emojihub:2102@21021"


class TestExperts:
    def test_are_merged_as_asked(self, diffgraph):
        told = diffgraph("plan", "a fox", "--expert", "nightfall:0.83", "--without", "critter",
                         "--json")  # fmt: skip
        assert told.code == 0, told.err
        (planned,) = told.json["plans"]
        assert planned["coefficients"][NIGHT] == 0.83
        said = diffgraph("plan", "a fox", "--expert", f"{NIGHT}:0.83", "--without", "critter").out
        assert "asked for, at 0.83" in said
        assert "not wanted" in said

    def test_and_nothing_else(self, diffgraph):
        told = diffgraph("plan", "a fox, sepia", "--expert", "nightfall:1", "--only", "--json")
        assert told.json["plans"][0]["coefficients"] == {NIGHT: 1.0}

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--expert", "nightfal l"], ["'nightfal l'", "Nightfall v2"]),
            (["--expert", "nightfall:0.8", "--expert", f"{NIGHT}:0.7"], ["twice", NIGHT]),
            (["--expert", "nightfall", "--without", "nightfall"], ["left out", NIGHT]),
            (["--expert", "nightfall:nan"], ["nightfall", "nan"]),
            (["--expert", "x" * 100_000], ["no expert is called"]),
        ],
    )
    def test_that_cannot_be_are_told_in_a_line(self, diffgraph, tmp_path, options, says):
        told = diffgraph("generate", "a fox", *options, "--out", tmp_path / "out")
        assert (told.code, told.out) == (1, "")
        line = only_line(told.err)
        assert [word for word in says if word not in line] == []
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("options", [["--only"], ["--plan", "x", "--expert", "nightfall"]])
    def test_that_contradict_each_other_are_wrong_usage(self, diffgraph, options):
        assert diffgraph("generate", "a fox", *options).code == 2


class TestCount:
    def test_is_an_image_for_each_next_seed(self, diffgraph, tmp_path):
        told = diffgraph("generate", "a fox", "-n", "3", "--seed", "5", "--method", "base",
                         "-o", tmp_path, "--json")  # fmt: skip
        assert told.code == 0, told.err
        assert [image["seed"] for image in told.json["images"]] == [5, 6, 7]
        files = [Path(image["file"]) for image in told.json["images"]]
        assert [read_plan(file).seed for file in files] == [5, 6, 7]
        assert len({file.read_bytes() for file in files}) == 3

    @pytest.mark.parametrize("count", ["0", "-1", "many", "1001"])
    def test_is_a_number_that_can_be(self, diffgraph, count):
        assert diffgraph("generate", "a fox", "-n", count).code == 2


class TestSampling:
    DRAW = ("generate", "a fox", "--method", "base", "--json")

    def test_is_as_asked_and_in_the_file(self, diffgraph, tmp_path):
        asked = ("--size", "96x48", "--steps", "2", "--guidance", "2.5", "--negative", "red\nframe")
        told = diffgraph(*self.DRAW, *asked, "-o", tmp_path)
        assert told.code == 0, told.err
        (drawn,) = told.json["images"]
        assert drawn["sampler"] == {"steps": 2, "guidance": 2.5, "size": [96, 48]}
        assert Path(drawn["file"]).name.startswith("a-fox-")
        with Image.open(drawn["file"]) as image:
            assert image.size == (96, 48)
            assert "Size: 96x48" in image.info["parameters"]
        assert read_plan(Path(drawn["file"])).prompt == "a fox\nNegative prompt: red frame"

    def test_one_number_is_a_square_and_the_usual_size_is_none(self, diffgraph, tmp_path):
        draw = (*self.DRAW, "--steps", "1", "-o", tmp_path)
        assert diffgraph(*draw, "--size", "32").json["images"][0]["sampler"]["size"] == [32, 32]
        assert "size" not in diffgraph(*draw, "--size", "64").json["images"][0]["sampler"]

    @pytest.mark.parametrize(
        "options",
        [("--size", "7x"), ("--size", "x7"), ("--size", "1e3"), ("--size", "-8x8"),
         ("--size", "9999999"), ("--steps", "100000"), ("--steps", "0"), ("--guidance", "much")],
    )  # fmt: skip
    def test_that_is_none_is_wrong_usage(self, diffgraph, options):
        assert diffgraph(*self.DRAW, *options).code == 2

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--size", "100000x100000"), ["emoji64 cannot draw 100000x100000", "64x64", "256"]),
            (("--size", "66x64"), ["multiples of 4"]),
            (("--size", "0x0"), ["0x0"]),
            (("--guidance", "nan"), ["guidance = nan"]),
            (("--guidance", "inf"), ["guidance = inf"]),
            (("--guidance", "-1"), ["guidance = -1"]),
            (("--guidance", "1", "--negative", "frame"), ["negative", "guidance 1"]),
        ],
    )
    def test_that_cannot_be_is_told_in_a_line(self, diffgraph, tmp_path, options, says):
        told = diffgraph(*self.DRAW, *options, "-o", tmp_path / "out")
        assert (told.code, told.out) == (1, "")
        line = only_line(told.err)
        assert [word for word in says if word not in line] == []
        assert not (tmp_path / "out").exists()

    def test_a_negative_prompt_is_refused_where_there_is_no_guidance(self):
        from diffgraph.errors import InputError
        from diffgraph.families import get_family
        from diffgraph.session.drawing import Sampling

        with pytest.raises(InputError, match="flux takes no negative prompt"):
            Sampling(negative="frame").of(get_family("flux"))
        assert Sampling(negative=" ").with_negative("a fox") == "a fox"


class TestAnImage:
    """What an image says of itself is enough to draw it again, others like it, and to say why."""

    ASKED = ("--size", "48x32", "--steps", "2", "--guidance", "2.5", "--negative", "red frame",
             "--seed", "7", "--expert", "night:0.4")  # fmt: skip

    @pytest.fixture
    def drawn(self, diffgraph, tmp_path):
        told = diffgraph("generate", "a fox, sepia", *self.ASKED, "-o", tmp_path / "1", "--json")
        assert told.code == 0, told.err
        return told.json["images"][0]

    def test_is_drawn_again_by_its_plan(self, diffgraph, tmp_path, drawn):
        told = diffgraph("generate", drawn["prompt"], "--plan", drawn["file"], "--seed", "7",
                         "-o", tmp_path / "2", "--json")  # fmt: skip
        (again,) = told.json["images"]
        assert Path(again["file"]).read_bytes() == Path(drawn["file"]).read_bytes()
        assert again["names"] == drawn["names"] != {}

    def test_has_others_like_it(self, diffgraph, tmp_path, drawn):
        draw = ("generate", "a cup", "--like", drawn["file"], "-o", tmp_path / "2", "--json")
        (like,) = diffgraph(*draw).json["images"]
        assert like["prompt"] == "a cup\nNegative prompt: red frame"
        for same in ("coefficients", "sampler", "seed", "plan_id"):
            assert like[same] == drawn[same]
        told = diffgraph(*draw, "--steps", "1", "--seed", "1", "--negative", "")
        (other,) = told.json["images"]
        assert (other["prompt"], other["seed"]) == ("a cup", 1)
        assert other["sampler"] == {**drawn["sampler"], "steps": 1}

    def test_says_why(self, diffgraph, drawn):
        told = diffgraph("why", drawn["file"])
        assert told.code == 0, told.err
        said = diffgraph("why", drawn["file"], "--json").json
        assert said["coefficients"] == drawn["coefficients"]
        reasons = said["explanation"]
        assert reasons == drawn["explanation"][-len(reasons) :]
        assert "drawn as: a fox, sepia, at night Negative prompt: red frame" in drawn["explanation"]
        words = ("asked for, at 0.4", "owed: ", "NoctisArt", "seed 7", "steps 2", "guidance 2.5",
                 "size 48x32", drawn["plan_id"], *drawn["names"].values())  # fmt: skip
        assert [word for word in words if word not in told.out] == []

    def test_of_somebody_else_is_told_in_a_line(self, diffgraph, tmp_path):
        Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
        for name, says in (("photo.png", "no image of ours"), ("photo.jpg", ""), ("none.png", "")):
            told = diffgraph("why", tmp_path / name)
            assert (told.code, told.out) == (1, "")
            line = only_line(told.err)
            assert name in line
            assert says in line

    def test_whose_texts_lie_is_harmless(self, diffgraph, tmp_path):
        info = PngInfo()
        info.add_text("diffgraph.plan", '{"family": "emoji64"}')
        info.add_text("diffgraph.experts", '[{"ref": 3}, {"name": "\x1b[2J"}]')
        info.add_text("diffgraph.reasons", "\x1b[2J")
        info.add_text("diffgraph.sampler", '{"steps": 2}')
        Image.new("RGB", (8, 8)).save(tmp_path / "ours.png", pnginfo=info)
        told = diffgraph("why", tmp_path / "ours.png")
        assert told.code == 0
        assert "\x1b" not in told.out
        info.add_text("diffgraph.sampler", '{"steps": 1000000}')
        Image.new("RGB", (8, 8)).save(tmp_path / "ours.png", pnginfo=info)
        told = diffgraph("why", tmp_path / "ours.png")
        assert told.code == 1
        assert "sampler: steps" in only_line(told.err)

    @pytest.mark.parametrize(
        "others",
        [("--plan", "x.png"), ("--expert", "night"), ("--without", "night"), ("--method", "base")],
    )
    def test_is_all_that_decides(self, diffgraph, others):
        assert diffgraph("generate", "a fox", "--like", "x.png", *others).code == 2


class TestStandardInput:
    """`generate -`: a prompt a line."""

    @pytest.fixture
    def piped(self, diffgraph, monkeypatch):
        def run(data: bytes, *arguments: object):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            return diffgraph(*arguments)

        return run

    def test_is_a_prompt_a_line(self, piped):
        told = piped(b"\xef\xbb\xbfa fox\r\n\n  \na cup", "plan", "a cat", "-", "a dog", "--json")
        assert told.code == 0, told.err
        prompts = [planned["prompt"].strip() for planned in told.json["plans"]]
        assert prompts == ["a cat", "a fox", "a cup", "a dog"]

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "holds no prompt"),
            (b"\n \n", "holds no prompt"),
            (b"a fox\na \xff cup\n", "no UTF-8 text: line 2"),
            (b"a fox\n" * 10_001, "10001 prompts"),
            (b"a" * ((16 << 20) + 1), "longer than"),
        ],
    )
    def test_that_cannot_be_is_told_in_a_line(self, piped, data, says):
        told = piped(data, "generate", "-")
        assert (told.code, told.out) == (1, "")
        assert says in only_line(told.err)

    def test_that_is_closed_is_told(self, diffgraph, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        assert "closed" in only_line(diffgraph("plan", "-").err)

    def test_is_read_once(self, piped):
        assert piped(b"a fox", "plan", "-", "-").code == 2


def test_a_prompt_of_a_hundred_thousand_characters_is_told_or_drawn(diffgraph, tmp_path):
    """And takes no longer for its tags, each of which is told or counted."""
    told = diffgraph("plan", "a fox, " + "<lora:nobody:1>, " * 6000, "--json")
    assert told.code == 0, told.err
    notes = told.json["plans"][0]["selection"]["notes"]
    assert len(notes) < 60
    assert any("of 6000 tags only the first" in note for note in notes)


def test_a_prompt_that_is_too_long_to_be_read_is_told_in_a_line(diffgraph, tmp_path):
    told = diffgraph("generate", "a fox, " + "soft fur, " * 10_000, "-o", tmp_path / "out")
    assert (told.code, told.out) == (1, "")
    assert "too long" in only_line(told.err)
    assert not (tmp_path / "out").exists()


class TestTheCommand:
    def test_explains_itself_by_one_letter(self, diffgraph):
        for verb in ((), ("generate",), ("show",)):
            assert diffgraph(*verb, "-h").out == diffgraph(*verb, "--help").out != ""

    def test_says_which_it_is(self, diffgraph):
        from diffgraph.version import version

        told = diffgraph("--version")
        assert (told.code, told.out) == (0, f"diffgraph {version()}\n")

    @pytest.mark.parametrize(
        ("words", "place", "completed"),
        [("diffgraph gene", 1, "generate"), ("diffgraph generate --expe", 2, "--expert")],
    )
    def test_is_completed_by_a_shell(self, words, place, completed):
        asked = {"_DIFFGRAPH_COMPLETE": "complete_bash", "COMP_WORDS": words,
                 "COMP_CWORD": str(place)}  # fmt: skip
        code = "import sys; sys.argv = ['diffgraph']; from flows.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, **asked},
        )  # fmt: skip
        assert done.stdout.split() == [completed]


TAKE = """
import sys
from pathlib import Path
from PIL import Image
from diffgraph.families.family import SamplerConfig
from diffgraph.merging.plan import MergePlan
from diffgraph.session.drawn import Drawn
from flows.cli.image_files import write_image

image = Image.new("RGB", (64, 64))
sys.stdin.readline()
for number in range(20):
    prompt = "a fox" + "!" * (number + int(sys.argv[1]))
    drawn = Drawn(image, prompt, prompt, 0, MergePlan(family="emoji64"), SamplerConfig())
    print(write_image(drawn, Path(sys.argv[2])))
"""


def test_two_processes_take_no_name_of_each_other(tmp_path):
    """Each writes twenty images whose names would all be the same."""
    command = [sys.executable, "-c", TAKE]
    both = [
        subprocess.Popen([*command, first, str(tmp_path)], cwd=ROOT, env=dict(os.environ),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for first in ("0", "100")
    ]  # fmt: skip
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [line for process in both for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(names)) == len(names) == 40
    assert len({read_plan(file).prompt for file in tmp_path.iterdir()}) == 40
