"""The command: exit codes, one line for an error, one JSON document for a program."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffgraph import errors
from diffgraph.errors import StorageError
from diffgraph.homes import family_folder
from diffgraph.merging.plan_files import read_plan
from diffgraph.printable import harmless
from flows.cli.command import errors_printed

ROOT = Path(__file__).parents[3]
VERBS = ("demo", "discover", "build", "refresh", "train", "plan", "generate", "why", "merge",
         "batch", "evaluate", "show", "export-graph", "doctor")  # fmt: skip
PROMPT = "a smiling robot, pencil sketch, at night"


def only_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(diffgraph, verb):
    told = diffgraph(verb, "--help")
    assert told.code == 0
    assert "--json" in told.out


class TestWrongUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["nonsense"],
            ["generate"],
            ["generate", "a cat", "--seed", "many"],
            ["generate", "a cat", "--seed", "99999999999999999999"],
            ["train", "--steps", "0"],
            ["discover", "--source", "nowhere"],
            ["show", "expert"],
            ["batch", "prompts.txt"],
        ],
    )
    def test_is_exit_code_2(self, diffgraph, arguments):
        assert diffgraph(*arguments).code == 2


class TestBadInput:
    """One clear line that says what and where, exit code 1, nothing on standard output."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["generate", "a cat", "--family", "sd9"], ["family 'sd9'", "emoji64"]),
            (["generate", ""], ["the prompt names nothing to draw"]),
            (["generate", "  \n "], ["the prompt names nothing to draw"]),
            (["generate", "zxqv wkrtp"], ["no word of the prompt", "zxqv"]),
            (["plan", "a cat", "--method", "magic"], ["no method", "magic", "diffgraph"]),
            (["generate", "a cat", "--plan", "/nowhere/plan.json"], ["/nowhere/plan.json"]),
            (["show", "expert", "nobody"], ["nobody"]),
            (["show", "snapshot", "nothing"], ["nothing"]),
            (["show", "plan", "/nowhere/image.png"], ["/nowhere/image.png"]),
        ],
    )
    def test_is_told_in_one_line(self, diffgraph, tmp_path, arguments, says):
        told = diffgraph(*arguments, "--home", tmp_path / "home")
        assert told.code == 1
        assert told.out == ""
        line = only_line(told.err)
        assert line.startswith("diffgraph: ")
        for word in says:
            assert word in line
        assert not any(f"{name}: " in line for name in vars(errors))  # what is wrong comes first
        assert not (tmp_path / "home").exists()

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"family": 3}'])
    def test_a_file_that_holds_no_plan(self, diffgraph, tmp_path, content):
        (tmp_path / "plan.json").write_text(content)
        told = diffgraph("generate", "a cat", "--plan", tmp_path / "plan.json", "--out", tmp_path)
        assert told.code == 1
        assert "plan.json" in only_line(told.err)
        assert not list(tmp_path.glob("*.png"))

    def test_a_wrong_field_beside_a_plan_is_named_by_every_verb(self, diffgraph, tmp_path):
        path = tmp_path / "plan.json"
        path.write_text('{"plan": {"family": "emoji64"}, "sead": 7}')
        for words in (("generate", "a cat", "--plan", path, "--out", tmp_path / "out"),
                      ("show", "plan", path),
                      ("merge", path, "--out", tmp_path / "m.safetensors")):  # fmt: skip
            told = diffgraph(*words, "--home", tmp_path / "home")
            assert (told.code, told.out) == (1, "")
            assert f"{path} holds no merge plan: sead: " in only_line(told.err)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("verb", ["discover", "build", "train", "evaluate", "refresh"])
    def test_a_home_that_cannot_be_written_is_told_before_any_work(self, diffgraph, tmp_path, verb):
        (tmp_path / "file").write_text("in the way")
        told = diffgraph(verb, "--home", tmp_path / "file" / "home")
        assert told.code == 1
        assert "cannot write" in (line := only_line(told.err))
        assert str(tmp_path / "file") in line

    def test_a_folder_that_cannot_be_written(self, diffgraph, tmp_path):
        (tmp_path / "file").write_text("in the way")
        told = diffgraph("generate", "a cat", "--out", tmp_path / "file", "--home", tmp_path / "h")
        assert told.code == 1
        assert "cannot write" in only_line(told.err)

    @pytest.mark.parametrize("content", [b"0123456789abcdef", b"../../etc", b"\xff\xfe"])
    def test_a_home_whose_only_graph_is_damaged(self, diffgraph, tmp_path, content):
        own = family_folder(tmp_path, "emoji64")
        own.mkdir(parents=True)
        (own / "current").write_bytes(content)
        told = diffgraph("generate", "a cat", "--home", tmp_path, "--out", tmp_path / "out")
        assert told.code == 1
        assert str(own) in only_line(told.err)
        assert not (tmp_path / "out").exists()

    def test_a_damaged_pointer_to_a_planner_is_told_and_the_one_that_ships_plans(
        self, diffgraph, tmp_path
    ):
        own = family_folder(tmp_path, "emoji64")
        own.mkdir(parents=True)
        (own / "champion").write_bytes(b"../../etc")
        told = diffgraph("plan", "a cat", "--home", tmp_path, "--json")
        assert told.code == 0
        assert "champion holds no id, but '../../etc'" in told.err
        assert not list(tmp_path.rglob("etc"))

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("[training]\nstep = 3", ["few.toml", "step", "steps"]),
            ("[trainin]\nsteps = 3", ["few.toml", "[trainin]", "training"]),
            ("steps", ["few.toml", "TOML"]),
        ],
    )
    @pytest.mark.parametrize("verb", ["build", "train", "evaluate", "demo"])
    def test_a_config_file_with_a_slip_ends_the_command_before_it_starts(
        self, diffgraph, tmp_path, monkeypatch, verb, content, says
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "few.toml").write_text(content)
        told = diffgraph(verb, "--config", "few.toml")
        assert told.code == 1
        line = only_line(told.err)
        assert [word for word in says if word not in line] == []
        assert [file.name for file in tmp_path.iterdir()] == ["few.toml"]

    def test_a_setting_that_cannot_be_used(self, diffgraph, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_GPUS", "all of them")
        told = diffgraph("plan", "a cat")
        assert told.code == 1
        assert "gpus" in only_line(told.err)


class TestSeveralPrompts:
    """One that fails costs the others nothing."""

    PROMPTS = ("a cat", "zxqv wkrtp", "", "a dog")

    def test_are_drawn_but_for_those_that_cannot_be(self, diffgraph, tmp_path):
        base = ("--method", "base", "--out", tmp_path)
        told = diffgraph("generate", *self.PROMPTS, *base)
        assert told.code == 1
        images = sorted(image.name for image in tmp_path.glob("*.png"))
        assert [name[:5] for name in images] == ["a-cat", "a-dog"]
        assert [name for name in images if name not in told.out] == []
        unknown, empty, count = told.err.strip().splitlines()
        assert unknown.startswith("diffgraph: 'zxqv wkrtp': no word")
        assert empty.startswith("diffgraph: '': ")
        assert "2 of" in count

    def test_are_one_document_for_a_program(self, diffgraph):
        told = diffgraph("plan", *self.PROMPTS, "--json")
        assert told.code == 1
        assert [planned["prompt"] for planned in told.json["plans"]] == ["a cat", "a dog"]
        assert [failed["prompt"] for failed in told.json["failed"]] == ["zxqv wkrtp", ""]
        assert told.json["failed"][0]["error"] == "UnknownWords"

    def test_are_told_one_by_one(self, diffgraph, tmp_path, monkeypatch, capsys):
        """When the second is begun, the first has been told."""
        from diffgraph.session import Session

        seen, decide = [], Session.decide

        def watching(session, *asked):
            seen.append(capsys.readouterr().out)
            return decide(session, *asked)

        monkeypatch.setattr(Session, "decide", watching)
        diffgraph("generate", "a cat", "a dog", "--method", "base", "--out", tmp_path)
        assert "a-cat" in seen[1]

    def test_end_with_what_would_fail_for_all_of_them(self, diffgraph, tmp_path):
        told = diffgraph("plan", "a cat", "a dog", "--method", "magic")
        assert (told.code, told.out) == (1, "")
        assert "magic" in only_line(told.err)
        (tmp_path / "file").write_text("in the way")
        told = diffgraph("generate", "zxqv", "a cat", "a dog", "--out", tmp_path / "file")
        assert (told.code, told.out) == (1, "")
        assert "cannot write" in only_line(told.err)

    def test_that_were_done_are_told_though_the_disk_is_full_then(
        self, diffgraph, tmp_path, monkeypatch
    ):
        from diffgraph.session import drawn

        save, saved = drawn.save_png, []

        def once(path, *rest):
            if saved:
                raise StorageError(f"cannot write {path}: No space left on device")
            saved.append(path)
            save(path, *rest)

        monkeypatch.setattr(drawn, "save_png", once)
        prompts = ("a cat", "a dog", "a fox")
        told = diffgraph("generate", *prompts, "--method", "base", "--out", tmp_path, "--json")
        assert told.code == 1
        assert [image["prompt"] for image in told.json["images"]] == ["a cat"]
        dog, fox = told.json["failed"]
        assert (dog["error"], dog["reason"][:12]) == ("StorageError", "cannot write")
        assert fox["reason"].startswith("not tried: ")


class TestWhatAnErrorRepeats:
    """A plan, a file's name or a prompt of a stranger may steer no terminal, and no key leaks."""

    ESCAPES = "\x1b[2J\x1b]0;t\x07\x9b2J\u202e\u200b\U000e0041"

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_is_harmless(self, diffgraph, tmp_path, options):
        plan = tmp_path / f"plan{self.ESCAPES}.json"
        content = {"family": "emoji64", "experts": [{"ref": self.ESCAPES}], self.ESCAPES: 1}
        plan.write_text(json.dumps(content))
        for arguments in (
            ("show", "plan", plan),
            ("generate", "a cat", "--plan", plan, "--out", tmp_path),
            ("plan", f"zxqv{self.ESCAPES}"),
            ("plan", "a cat", "--family", f"x{self.ESCAPES}"),
            ("show", "expert", f"x{self.ESCAPES}"),
        ):
            told = diffgraph(*arguments, *options)
            assert told.code == 1
            line = only_line(told.err)
            assert harmless(line) == line
            assert told.out == ""

    @pytest.mark.parametrize(
        "arguments", [("{}",), ("plan", "a cat", "--{}"), ("generate", "a cat", "--seed", "{}")]
    )
    def test_is_harmless_and_masked_where_the_command_line_is_wrong(
        self, diffgraph, monkeypatch, arguments
    ):
        monkeypatch.setenv("DIFFGRAPH_CIVITAI_TOKEN", "a-secret-token")
        hostile = f"a-secret-token{self.ESCAPES}\u3164"
        told = diffgraph(*(argument.format(hostile) for argument in arguments))
        assert told.code == 2
        assert "Error" in told.err
        assert all(harmless(line) == line for line in told.err.splitlines())
        assert "secret" not in told.err

    def test_is_masked(self, diffgraph, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_CIVITAI_TOKEN", "a-secret-token")
        told = diffgraph("show", "expert", "a-secret-token")
        assert "secret" not in only_line(told.err)

    def test_is_masked_in_tracebacks_too(self, tmp_path):
        code = (
            "import sys; sys.argv = ['diffgraph', 'doctor'];"
            "from flows.cli import command;"
            "command.app = lambda: open('/a-secret-token/\\x1b[2J');"
            "from diffgraph.settings import Settings; Settings(); command.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "DIFFGRAPH_CIVITAI_TOKEN": "a-secret-token", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 1
        assert "FileNotFoundError" in done.stderr
        assert "/***/" in done.stderr.splitlines()[-1]

    def test_doctor_tells_no_password_of_an_address(self, diffgraph, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_MLFLOW_TRACKING_URI", "postgresql://me:pass-word@db:5432/x")
        monkeypatch.setenv("PREFECT_API_URL", "http://me:other-word@127.0.0.1:1/api")
        for options in ((), ("--json",)):
            told = diffgraph("doctor", "--home", tmp_path / "home", *options)
            assert "-word" not in told.out + told.err
            assert "@db:5432/x" in told.out


class TestServingAPerson:
    """With nothing set up: the bundled snapshot, planner and experts, no server, no home."""

    def test_generate_draws_and_says_why(self, diffgraph, tmp_path):
        told = diffgraph("generate", PROMPT, "--out", tmp_path, "--home", tmp_path / "home")
        assert told.code == 0, told.err
        (image,) = tmp_path.glob("*.png")
        assert image.name in told.out
        assert "asked for" in told.out
        drawn = read_plan(image)
        assert (drawn.prompt, drawn.seed) == (PROMPT, 0)
        assert drawn.plan.experts
        assert not (tmp_path / "home").exists()

    def test_the_plan_of_an_image_draws_it_again(self, diffgraph, tmp_path):
        first = diffgraph("generate", PROMPT, "--out", tmp_path / "1", "--json").json["images"][0]
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps(diffgraph("show", "plan", first["file"], "--json").json))
        again = diffgraph(
            "generate", PROMPT, "--plan", plan, "--out", tmp_path / "2", "--json"
        ).json["images"][0]
        assert again["plan_id"] == first["plan_id"]
        assert Path(again["file"]).read_bytes() == Path(first["file"]).read_bytes()

    def test_what_plan_prints_draws_and_is_shown(self, diffgraph, tmp_path):
        printed = diffgraph("plan", PROMPT, "--json")
        (tmp_path / "plan.json").write_text(printed.out)
        drawn = diffgraph("generate", PROMPT, "--plan", tmp_path / "plan.json",
                          "--out", tmp_path, "--json").json["images"][0]  # fmt: skip
        (planned,) = printed.json["plans"]
        assert drawn["plan_id"] == planned["plan_id"]
        for file in (tmp_path / "plan.json", drawn["file"]):
            assert diffgraph("show", "plan", file, "--json").json["id"] == planned["plan_id"]

    def test_prompts_with_like_names_get_an_image_each(self, diffgraph, tmp_path):
        (tmp_path / "plan.json").write_text('{"family": "emoji64"}')
        plan = ("--plan", tmp_path / "plan.json", "--out", tmp_path)
        told = diffgraph("generate", "a cat!", "a cat?", *plan, "--json").json["images"]
        assert len({image["file"] for image in told}) == 2
        again = diffgraph("generate", "a cat?", *plan, "--json").json["images"]
        assert again[0]["file"] == told[1]["file"]
        assert len(list(tmp_path.glob("*.png"))) == 2

    def test_images_go_into_a_folder(self, diffgraph, tmp_path):
        told = diffgraph("generate", "a cat", "--out", tmp_path / "cat.png")
        assert told.code == 1
        assert "folder" in only_line(told.err)
        assert not (tmp_path / "cat.png").exists()

    def test_plan_tells_who_is_merged_how_strongly_and_who_is_not_and_why(self, diffgraph):
        told = diffgraph("plan", PROMPT)
        assert told.code == 0, told.err
        said = diffgraph("plan", PROMPT, "--json").json["plans"][0]
        assert said["selection"]["dropped"]
        for choice in (*said["selection"]["experts"], *said["selection"]["dropped"]):
            line = next(line for line in told.out.splitlines() if choice["ref"] in line)
            assert choice["name"] in line
            assert choice["reason"] in line
        for ref, coefficient in said["coefficients"].items():
            line = next(line for line in told.out.splitlines() if ref in line)
            assert f"{coefficient:.3f}" in line

    def test_how_well_experts_are_found_is_measured_against_labels(self, diffgraph, tmp_path):
        labels = tmp_path / "labels.jsonl"
        labels.write_text(
            '{"prompt": "a dog in the rain", "experts": ["emojihub:2120", "civitai:58390"]}\n'
        )
        told = diffgraph("evaluate", "--retrieval", labels, "--json").json
        assert told["summary"]["reachable"] == 0.5
        assert told["summary"]["recall_at"]["10"] == 0.5
        assert told["results"][0]["missed"] == ["civitai:58390"]
        said = diffgraph("evaluate", "--retrieval", labels)
        assert (
            "missed: civitai:58390 (not among the candidates) for 'a dog in the rain'" in said.out
        )
        labels.write_text('{"prompt": "a dog"}\n')
        told = diffgraph("evaluate", "--retrieval", labels)
        assert told.code == 1
        assert "labels.jsonl:1" in only_line(told.err)
        assert diffgraph("evaluate", "--retrieval", labels, "--methods", "uniform").code == 2

    def test_several_prompts_share_one_model(self, diffgraph, tmp_path):
        told = diffgraph("generate", "a cat", "a dog", "--out", tmp_path, "--json")
        assert [image["prompt"] for image in told.json["images"]] == ["a cat", "a dog"]
        assert len(list(tmp_path.glob("*.png"))) == 2

    def test_a_config_file_changes_how_images_are_sampled(self, diffgraph, tmp_path):
        (tmp_path / "few.toml").write_text("[sampler]\nsteps = 2\n")
        config = ("--config", tmp_path / "few.toml")
        draw = ("generate", "a cat", "--method", "base", "--json", "--out")
        whole = diffgraph(*draw, tmp_path / "whole").json["images"][0]
        few = diffgraph(*draw, tmp_path / "few", *config).json["images"][0]
        assert few["sampler"] == {"steps": 2, "guidance": 4.0}
        assert whole["plan_id"] == few["plan_id"]
        assert Path(whole["file"]).read_bytes() != Path(few["file"]).read_bytes()

    def test_plan_agrees_with_generate(self, diffgraph, tmp_path):
        planned = diffgraph("plan", PROMPT, "--json").json["plans"][0]
        drawn = diffgraph("generate", PROMPT, "--out", tmp_path, "--json").json["images"][0]
        assert planned["plan_id"] == drawn["plan_id"]
        assert planned["coefficients"] == drawn["coefficients"]

    def test_a_prompt_never_becomes_a_path(self, diffgraph, tmp_path):
        told = diffgraph("generate", "../../a cat /etc/passwd", "--out", tmp_path / "out")
        assert told.code == 0, told.err
        (image,) = tmp_path.rglob("*.png")
        assert image.parent == tmp_path / "out"

    @pytest.mark.parametrize("what", ["graph", "experts", "snapshot"])
    def test_show_what_ships(self, diffgraph, tmp_path, what):
        told = diffgraph("show", what, "--home", tmp_path / "home", "--json")
        assert told.code == 0, told.err
        assert told.json

    def test_export_graph(self, diffgraph, tmp_path):
        from diffgraph.graph.tensors import load_npz

        told = diffgraph("export-graph", "--out", tmp_path / "graph")
        assert told.code == 0, told.err
        assert load_npz(tmp_path / "graph")

    def test_doctor_finds_nothing_wrong(self, diffgraph, tmp_path):
        told = diffgraph("doctor", "--home", tmp_path / "home", "--json")
        assert told.code == 0, told.out
        assert {check["status"] for check in told.json["checks"]} <= {"ok", "note"}

    def test_doctor_finds_a_home_that_cannot_be_written(self, diffgraph, tmp_path):
        (tmp_path / "file").write_text("in the way")
        told = diffgraph("doctor", "--home", tmp_path / "file" / "home", "--json")
        assert told.code == 1
        (problem,) = [c for c in told.json["checks"] if c["status"] == "problem"]
        assert problem["name"] == "home"
        assert "--home" in problem["advice"]


def test_a_full_disk_is_told_and_leaves_no_half_image(tmp_path):
    """A limit on the size of files stands for a disk that fills up while an image is written."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200));"
        "sys.argv = ['diffgraph', 'generate', 'a cat', '--out', sys.argv[1]];"
        "from flows.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr.strip().splitlines()[-1]
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENXIO, errno.EROFS])
def test_a_disk_that_fails_is_told_in_a_line(capsys, number):
    with pytest.raises(SystemExit) as ended, errors_printed():
        raise OSError(number, os.strerror(number), "/home/library/one.safetensors")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.strip() == (f"diffgraph: /home/library/one.safetensors: {os.strerror(number)}")


def test_a_mistake_of_ours_is_not_told_as_a_disk_that_fails():
    with pytest.raises(FileNotFoundError), errors_printed():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")
