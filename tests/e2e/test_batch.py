"""A batch is drawn by the graph and planner that it began with, and each row once."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffgraph.artifacts import write_text
from diffgraph.graph.snapshot import current_id, write_snapshot
from diffgraph.homes import family_folder
from diffgraph.planner.planner import Planner
from tests.planners import with_metrics

pytestmark = pytest.mark.usefixtures("prefect_server")


def write_prompts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", ["a cat", "a dog at night", "a robot"])


def run_batch(prompts: Path, out: Path):
    from flows.batch import batch

    return batch(prompts, out)


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "results.parquet").to_pylist()


def change_what_is_in_force(home: Path) -> tuple[str, str]:
    """Put another graph and another planner in force; return the graph's id and planner's name."""
    from diffgraph.families import get_family
    from diffgraph.graph.snapshot import open_snapshot

    now = open_snapshot(family_folder(home, "emoji64"))
    sampler = now.manifest.sampler.model_copy(update={"steps": 3})
    other = write_snapshot(
        family_folder(home, "emoji64"), "emoji64", [], [], now.scores.slice(0, 0), sampler, "others"
    )
    assert current_id(family_folder(home, "emoji64")) == other != now.id
    shipped = get_family("emoji64").assets / "planner"
    planner = Planner.load(shipped)
    with_metrics(planner, other=1.0).save(family_folder(home, "emoji64") / "planners" / "another1")
    write_text(family_folder(home, "emoji64") / "champion", "another1")
    return other, "another1"


class TestWhatDraws:
    def test_what_comes_into_force_while_a_batch_runs_draws_none_of_it(
        self, home, prompts, tmp_path, monkeypatch
    ):
        import flows.batch
        from diffgraph.session import batches

        monkeypatch.setattr(flows.batch, "ROWS_A_SHARD", 1)
        whole = run_batch(prompts, tmp_path / "undisturbed")
        draw, drawn = batches._draw, []

        def draw_and_change(row, *others):
            told = draw(row, *others)
            if not drawn:
                change_what_is_in_force(home)
            drawn.append(row)
            return told

        monkeypatch.setattr(batches, "_draw", draw_and_change)
        told = run_batch(prompts, tmp_path / "out")
        assert len(drawn) == 3
        assert (told.snapshot, told.planner) == (whole.snapshot, whole.planner)
        assert {(row["snapshot"], row["planner"]) for row in rows_of(tmp_path / "out")} == {
            (whole.snapshot, whole.planner)
        }
        assert rows_of(tmp_path / "out") == rows_of(tmp_path / "undisturbed")

    def test_a_second_run_goes_on_by_what_the_first_began_with_and_says_so(
        self, diffgraph, home, prompts, tmp_path
    ):
        out = tmp_path / "out"
        first = diffgraph("batch", prompts, "--out", out, "--limit", 2, "--json").json
        change_what_is_in_force(home)
        told = diffgraph("batch", prompts, "--out", out, "--json")
        assert told.code == 0, told.err
        assert told.json["images"] == 3
        assert {row["snapshot"] for row in rows_of(out)} == {first["snapshot"]}
        assert {row["planner"] for row in rows_of(out)} == {first["planner"]}
        assert f"goes on with snapshot {first['snapshot']}" in told.err

    def test_it_stops_if_what_it_began_with_has_gone(self, diffgraph, home, prompts, tmp_path):
        out = tmp_path / "out"
        first = diffgraph("batch", prompts, "--out", out, "--limit", 1, "--json").json
        change_what_is_in_force(home)
        shutil.rmtree(family_folder(home, "emoji64") / "snapshots" / first["snapshot"])
        told = diffgraph("batch", prompts, "--out", out)
        assert told.code == 1
        assert first["snapshot"] in told.err.strip().splitlines()[-1]
        assert len(rows_of(out)) == 1, "what was drawn stays as it was"

    def test_it_stops_if_its_planner_was_trained_again(self, diffgraph, home, prompts, tmp_path):
        _, name = change_what_is_in_force(home)
        shutil.rmtree(family_folder(home, "emoji64") / "snapshots")
        (family_folder(home, "emoji64") / "current").unlink()
        out = tmp_path / "out"
        first = diffgraph("batch", prompts, "--out", out, "--limit", 1, "--json").json
        folder = family_folder(home, "emoji64") / "planners" / name
        with_metrics(Planner.load(folder), trained=2.0).save(folder)
        told = diffgraph("batch", prompts, "--out", out)
        assert told.code == 1
        assert first["planner"] in told.err.strip().splitlines()[-1]

    def test_it_stops_if_the_scorers_are_others(self, diffgraph, home, prompts, tmp_path):
        out = tmp_path / "out"
        diffgraph("batch", prompts, "--out", out, "--limit", 1)
        begun = json.loads((out / "batch.json").read_text())
        (out / "batch.json").write_text(json.dumps({**begun, "scorers": "0123456789abcdef"}))
        told = diffgraph("batch", prompts, "--out", out)
        assert told.code == 1
        assert "0123456789abcdef" in told.err.strip().splitlines()[-1]

    def test_a_studio_travels_with_the_ids_it_has_here(self, home):
        import pickle

        from diffgraph.session import Session

        here = Session(home, "emoji64")
        snapshot, planner = here.graph.id, here.planner_id
        data = pickle.dumps(here)
        change_what_is_in_force(home)
        there = pickle.loads(data)  # noqa: S301 (our own)
        assert (there.graph.id, there.planner_id) == (snapshot, planner)
        assert Session(home, "emoji64").planner_id != planner


class TestResuming:
    def test_a_line_on_top_of_the_file_and_a_lost_image_cost_two_images(
        self, home, prompts, tmp_path
    ):
        out = tmp_path / "out"
        run_batch(prompts, out)
        lost = out / rows_of(out)[1]["file"]
        data = lost.read_bytes()
        lost.unlink()
        before = {file: file.stat().st_mtime_ns for file in (out / "images").iterdir()}
        write_prompts(prompts, ["a red fox", "a cat", "a dog at night", "a robot"])
        told = run_batch(prompts, out)
        assert told.images == 4
        after = {file: file.stat().st_mtime_ns for file in (out / "images").iterdir()}
        assert len(after) == 4
        assert before.items() <= after.items()
        assert lost.read_bytes() == data
        assert [row["prompt"] for row in rows_of(out)] == [
            "a red fox", "a cat", "a dog at night", "a robot",
        ]  # fmt: skip
        assert [row["id"] for row in rows_of(out)] == [f"row-{n:06d}" for n in (1, 2, 3, 4)]

    def test_a_prompt_that_is_there_twice_is_drawn_once_and_listed_twice(self, home, tmp_path):
        told = run_batch(write_prompts(tmp_path / "p.jsonl", ["a cat", "a cat"]), tmp_path / "out")
        assert told.images == 2
        first, second = rows_of(tmp_path / "out")
        assert first["id"] != second["id"]
        assert first["file"] == second["file"]
        assert len(list((tmp_path / "out" / "images").iterdir())) == 1

    def test_a_cut_table_of_finished_rows_is_set_aside_and_drawn_again(
        self, diffgraph, home, prompts, tmp_path
    ):
        out = tmp_path / "out"
        diffgraph("batch", prompts, "--out", out)
        whole = rows_of(out)
        (part,) = (out / "parts").glob("*.parquet")
        part.write_bytes(part.read_bytes()[:100])
        told = diffgraph("batch", prompts, "--out", out)
        assert told.code == 0, told.err
        assert part.name in told.err
        assert (out / "parts" / f"{part.name}.damaged").is_file()
        assert rows_of(out) == whole

    def test_a_prompt_that_could_not_be_drawn_is_tried_again(
        self, home, prompts, tmp_path, monkeypatch
    ):
        from diffgraph.errors import MissingInput
        from diffgraph.session import Session

        def fail(*_):
            raise MissingInput("no weights file")

        with monkeypatch.context() as patch:
            patch.setattr(Session, "decide", fail)
            assert run_batch(prompts, tmp_path / "out").failed == 3
        told = run_batch(prompts, tmp_path / "out")
        assert (told.images, told.failed) == (3, 0)


def test_the_first_prompts_that_cannot_be_drawn_are_told_with_their_reasons(tmp_path):
    told = run_batch(write_prompts(tmp_path / "p.jsonl", ["qzx bvwk"]), tmp_path / "out")
    assert (told.images, told.failed) == (0, 1)
    (line,) = [line for line in told.lines() if "row-" in str(line)]
    assert line.startswith("row-000001: no word of the prompt is known")


@pytest.mark.parametrize(("texts", "drawn"), [(["qzx bvwk", "a cat"], 1), (["qzx bvwk"], 0)])
def test_a_prompt_that_cannot_be_drawn_ends_the_command_with_1(diffgraph, tmp_path, texts, drawn):
    out, path = tmp_path / "out", write_prompts(tmp_path / "p.jsonl", texts)
    told = diffgraph("batch", path, "--out", out, "--method", "base")
    assert told.code == 1
    assert f"{drawn} images" in told.out
    assert "row-000001: no word of the prompt" in told.out
    assert f"diffgraph: {drawn} of {len(texts)} prompts of {path} were drawn" in told.err
    assert len(list((out / "images").glob("*.png"))) == drawn
