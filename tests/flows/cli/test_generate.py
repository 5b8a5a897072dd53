"""`generate` and `plan`: what a person decides, and what becomes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
