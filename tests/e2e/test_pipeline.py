"""The stages, for real, on a small hub: nothing is done twice, nothing is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffgraph.experts.library import Library
from diffgraph.graph.snapshot import current_id, open_snapshot, snapshot_ids
from diffgraph.homes import SEEN, family_folder
from recipes.emoji64.unusable import lora
from tests.environment import environment
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent.parent
GOOD = {f"smallhub:{number}@{number}1" for number in (9001, 9002, 9003, 9010)}

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def own_hub(hub, tmp_path) -> Path:
    return Path(shutil.copytree(hub, tmp_path / "hub"))


class TestDiscover:
    def test_good_experts_are_kept_and_bad_ones_have_their_reason(self, built_home):
        library = Library(built_home)
        assert {expert.ref for expert in library.experts("ready")} == GOOD
        reasons = {expert.name: expert.reason for expert in library.experts("rejected")}
        assert "NaN" in reasons["Not a number v1"]
        assert "bytes" in reasons["Half a file v1"]
        assert "run code" in reasons["Pickled v1"]

    def test_a_second_look_changes_nothing(self, diffgraph, home, hub):
        told = diffgraph("discover", "--path", hub, "--json")
        assert told.code == 0, told.err
        found = told.json
        assert (found["new"], found["updated"], found["retired"]) == ([], [], [])
        assert found["ready"] == len(GOOD)
        assert [refusal["what"] for refusal in found["refused"]] == ["models/9999.json"]

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda hub: shutil.rmtree(hub), "no hub folder"),
            (lambda hub: (hub / "hub.json").unlink(), "hub.json"),
            (lambda hub: (hub / "hub.json").write_text("{"), "not JSON"),
            (lambda hub: shutil.rmtree(hub / "models"), "models"),
        ],
    )
    def test_a_hub_that_is_none(self, diffgraph, own_hub, tmp_path, damage, says):
        damage(own_hub)
        told = diffgraph("discover", "--path", own_hub, "--home", tmp_path / "home")
        assert told.code == 1
        line = told.err.strip().splitlines()[-1]
        assert line.startswith("diffgraph: ")
        assert says in line
        assert str(own_hub) in line
        assert not Library(tmp_path / "home").experts()

    def test_a_full_disk_leaves_the_library_whole(self, hub, tmp_path, prefect_server):
        """A limit on the size of files stands for a disk that fills up."""
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700));"
            "sys.argv = ['diffgraph', *sys.argv[1:]];"
            "from flows.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", code, "discover", "--path", hub, "--home", tmp_path / "h"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "diffgraph: cannot write" in done.stderr.strip().splitlines()[-1]
        library = Library(tmp_path / "h")
        for expert in library.experts("ready"):
            assert library.path_of(expert.sha256).is_file()
        leftovers = [file.name for file in (tmp_path / "h").rglob("*.part")]
        assert not leftovers


class TestBuild:
    def test_every_expert_and_the_base_are_measured_on_every_prompt(self, built_home):
        snapshot = open_snapshot(family_folder(built_home, "emoji64"))
        assert set(snapshot.refs) == GOOD
        assert snapshot.scores.num_rows == (len(GOOD) + 1) * 2

    def test_nothing_is_drawn_twice(self, home):
        place = family_folder(home, "emoji64")
        before, kept = current_id(place), snapshot_ids(place)
        told = run_build()
        assert told["images"] == 0
        assert told["snapshot"] == before
        assert snapshot_ids(place) == kept

    def test_a_new_expert_costs_its_own_images_only(self, diffgraph, home, own_hub, write_page):
        write_page(own_hub, 9004, "Snowfall", "It snows.", "in the snow")
        (own_hub / "files" / "9004.safetensors").write_bytes(lora(0.33))
        before = current_id(family_folder(home, "emoji64"))
        assert diffgraph("discover", "--path", own_hub, "--json").json["new"] == [
            "smallhub:9004@90041"
        ]
        kept = snapshot_ids(family_folder(home, "emoji64"))
        told = run_build()
        assert told["images"] == 2
        assert told["new"] == ["smallhub:9004@90041"]
        assert told["parent"] == before
        assert set(snapshot_ids(family_folder(home, "emoji64"))) == {*kept, told["snapshot"]}

    def test_an_expert_that_has_gone_is_retired_and_kept_in_history(self, diffgraph, home, own_hub):
        before = current_id(family_folder(home, "emoji64"))
        (own_hub / "models" / "9003.json").unlink()
        assert diffgraph("discover", "--path", own_hub, "--json").json["retired"] == [
            "smallhub:9003@90031"
        ]
        told = run_build()
        assert (told["images"], told["retired"]) == (0, ["smallhub:9003@90031"])
        assert "smallhub:9003@90031" in open_snapshot(family_folder(home, "emoji64"), before).refs
        assert "smallhub:9003@90031" not in open_snapshot(family_folder(home, "emoji64")).refs

    def test_what_is_damaged_is_set_aside_and_made_again(self, diffgraph, home, caplog):
        """The graph's table, the scores of one expert, and a line of the cards are cut."""
        whole = current_id(family_folder(home, "emoji64"))
        table = family_folder(home, "emoji64") / "snapshots" / whole / "scores.parquet"
        part = sorted((home / "scores").glob("*.parquet"))[0]
        cards = home / "cards" / "cards.jsonl"
        for file in (table, part, cards):
            file.write_bytes(file.read_bytes()[:-50])
        told = run_build()
        assert (told["snapshot"], told["images"], told["asked"]) == (whole, 2, 1)
        assert open_snapshot(family_folder(home, "emoji64")).id == whole
        assert (family_folder(home, "emoji64") / "snapshots" / f"{whole}.damaged").is_dir()
        assert (home / "scores" / f"{part.name}.damaged").is_file()
        for name in (whole, part.name):
            assert any(name in line and "set aside" in line for line in caplog.messages)

    def test_without_experts_it_says_what_to_do_first(self, diffgraph, tmp_path):
        told = diffgraph("build", "--home", tmp_path / "empty")
        assert told.code == 1
        assert "diffgraph discover" in told.err.strip().splitlines()[-1]

    @pytest.mark.slow
    def test_a_killed_build_goes_on_where_it_was(self, home):
        """Killed without warning after some experts, as by a power cut."""
        whole = current_id(family_folder(home, "emoji64"))
        shutil.rmtree(home / "scores")
        shutil.rmtree(family_folder(home, "emoji64") / "snapshots")
        (family_folder(home, "emoji64") / "current").unlink()
        script = "from flows.build_graph import build; print(build(reference_prompts=2).images)"
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        try:
            wait_for(lambda: len(list((home / "scores").glob("*.parquet"))) >= 2)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        parts = {part.name: part.stat().st_mtime_ns for part in (home / "scores").iterdir()
                 if part.suffix == ".parquet"}  # fmt: skip
        assert current_id(family_folder(home, "emoji64")) is None
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert int(done.stdout.split()[-1]) == 2 * (len(GOOD) + 1 - len(parts))
        for name, written in parts.items():
            assert (home / "scores" / name).stat().st_mtime_ns == written
        assert current_id(family_folder(home, "emoji64")) == whole  # bit for bit the same graph


@pytest.fixture(scope="module")
def trained_home(server_address, built_home, tmp_path_factory) -> Path:
    """A copy of the small home whose planner was trained for a step, for those who only look."""
    from flows.train_planner import train

    home = Path(shutil.copytree(built_home, tmp_path_factory.mktemp("trained") / "home"))
    with environment(PREFECT_API_URL=server_address, DIFFGRAPH_HOME=home):
        told = train(steps=1, prompts=24)
    (home / "told.json").write_text(told.model_dump_json())
    return home


class TestTrain:
    @pytest.fixture
    def home(self, trained_home, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_HOME", str(trained_home))
        return trained_home

    @pytest.fixture
    def trained(self, home):
        from flows.train_planner import TrainingResult

        return TrainingResult.model_validate_json((home / "told.json").read_text())

    def test_a_planner_is_trained_tracked_and_compared(self, home, trained):
        import mlflow

        from diffgraph.planner.planner import Planner

        planner = Planner.load(trained.folder)
        assert planner.config.snapshot == current_id(family_folder(home, "emoji64"))
        mlflow.set_tracking_uri(trained.run.uri)
        run = mlflow.get_run(trained.run.run_id)
        assert run.data.metrics["trial_reward"] == pytest.approx(trained.reward)
        assert run.data.params["search.samples"] == str(
            planner.config.training["search"]["samples"]
        )

    def test_the_registered_planner_plans(self, home, trained):
        import mlflow

        mlflow.set_tracking_uri(trained.run.uri)
        planner = mlflow.pyfunc.load_model(f"models:/diffgraph-planner/{trained.run.version}")
        (plan,) = planner.predict(["a robot, pencil sketch"])
        experts = {expert["ref"] for expert in json.loads(plan)["experts"]}
        assert "smallhub:9001@90011" in experts

    def test_it_is_promoted_only_if_it_is_better(self, home, trained):
        pointer = family_folder(home, "emoji64") / "champion"
        assert trained.promoted == (
            trained.champion_reward is None or trained.reward > trained.champion_reward
        )
        assert pointer.is_file() == trained.promoted

    def test_the_same_training_goes_on_instead_of_starting_again(self, home, trained):
        from flows.train_planner import train

        state = {f: f.stat().st_mtime_ns for f in (trained.folder / "checkpoints").rglob("*")}
        again = train(steps=1, prompts=24)
        assert again.planner == trained.planner
        assert again.reward == pytest.approx(trained.reward)
        assert {
            f: f.stat().st_mtime_ns for f in (trained.folder / "checkpoints").rglob("*")
        } == state

    def test_like_another_is_with_its_settings(self, home, trained):
        from flows.train_planner import train

        again = train(steps=1, prompts=24, like=trained.planner)
        assert again.planner == trained.planner  # nothing is different, so nothing is new

    def test_like_the_one_that_ships_is_with_its_settings(self, home):
        from diffgraph.families.emoji64 import ASSETS
        from diffgraph.planner.planner import Planner
        from flows.train_planner import _as

        told = _as("shipped", home, "emoji64").model_dump(mode="json")
        assert told == Planner.load(ASSETS / "planner").config.training

    @pytest.mark.parametrize(("like", "family"), [("../x", "emoji64"), ("shipped", "sd15")])
    def test_like_an_unknown_one_is_an_error_that_names_it(self, home, like, family):
        from diffgraph.errors import MissingInput
        from flows.train_planner import _as

        with pytest.raises(MissingInput, match=like):
            _as(like, home, family)


class TestEvaluate:
    def test_planners_of_the_home_are_compared_by_their_ids(
        self, diffgraph, trained_home, monkeypatch
    ):
        monkeypatch.setenv("DIFFGRAPH_HOME", str(trained_home))
        planner = "planner:" + json.loads((trained_home / "told.json").read_text())["planner"]
        arguments = ("evaluate", "--limit", "2", "--json", "--methods")
        told = diffgraph(*arguments, f"diffgraph,{planner}")
        assert told.code == 0, told.err
        methods = {method["method"] for method in told.json["summary"]["methods"]}
        assert methods == {"diffgraph", planner}
        unknown = diffgraph(*arguments, "diffgraph,planner:0000")
        assert unknown.code == 1
        assert "0000" in unknown.err

    def test_methods_are_compared_and_told(self, diffgraph, home, tmp_path):
        page = tmp_path / "report.html"
        arguments = ("evaluate", "--methods", "base,uniform,diffgraph", "--limit", "2",
                     "--report", page, "--json")  # fmt: skip
        told = diffgraph(*arguments)
        assert told.code == 0, told.err
        summary = told.json["summary"]
        assert {method["method"] for method in summary["methods"]} == {
            "base", "uniform", "diffgraph",
        }  # fmt: skip
        assert summary["reference"] == "diffgraph"
        html = page.read_text()
        assert "Silver Pencil" in html
        assert "http://" not in html.replace("http://www.w3.org", "")
        assert diffgraph(*arguments).json["drawn"] == 0

    def test_a_prompt_set_that_is_not_there(self, diffgraph, home):
        told = diffgraph("evaluate", "--prompts", "nowhere.jsonl")
        assert told.code == 1
        assert "nowhere.jsonl" in told.err.strip().splitlines()[-1]


class TestBatch:
    @pytest.fixture
    def prompts(self, tmp_path) -> Path:
        texts = ("a cat, pencil sketch", "zxqv", "a dog at night")
        rows = [*({"prompt": text} for text in texts), {"caption": "no prompt here"}]
        path = tmp_path / "prompts.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n{ broken\n")
        return path

    def test_images_and_table(self, diffgraph, home, prompts, tmp_path):
        out = tmp_path / "out"
        told = diffgraph("batch", prompts, "--out", out, "--json")
        assert told.code == 1
        assert f"2 of 5 prompts of {prompts} were drawn" in told.err
        assert (told.json["images"], told.json["failed"], told.json["broken"]) == (2, 1, 2)
        table = pq.read_table(out / "results.parquet").to_pylist()
        drawn = [row for row in table if not row["error"]]
        assert [row["prompt"] for row in drawn] == ["a cat, pencil sketch", "a dog at night"]
        for row in drawn:
            assert (out / row["file"]).is_file()
            assert json.loads(row["plan"])["family"] == "emoji64"
            assert row["reward"] == row["reward"]
        (failed,) = [row for row in table if row["error"]]
        assert "no word of the prompt" in failed["error"]

    def test_a_second_run_draws_nothing(self, diffgraph, home, prompts, tmp_path):
        out = tmp_path / "out"
        diffgraph("batch", prompts, "--out", out)
        before = {file: file.stat().st_mtime_ns for file in (out / "images").iterdir()}
        told = diffgraph("batch", prompts, "--out", out, "--json")
        assert told.json["images"] == 2
        assert {file: file.stat().st_mtime_ns for file in (out / "images").iterdir()} == before


def test_an_expert_whose_file_was_damaged_later_is_told(diffgraph, home, tmp_path):
    library = Library(home)
    ref = "smallhub:9001@90011"
    plan = {"family": "emoji64", "experts": [{"ref": ref, "kind": "peft", "coefficient": 1.0}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    draw = ("generate", "a cat", "--plan", tmp_path / "plan.json", "--out", tmp_path / "out")
    assert diffgraph(*draw).code == 0
    file = library.path_of(library.get(ref).sha256)
    file.write_bytes(file.read_bytes()[:-50])
    from diffgraph.session import loaded

    loaded.renderer.cache_clear()
    told = diffgraph(*draw)
    assert told.code == 1
    assert file.name in told.err.strip().splitlines()[-1]


def test_refresh_says_what_changed_and_whether_training_was_due(diffgraph, home, own_hub):
    from flows.refresh import refresh

    (own_hub / "models" / "9003.json").unlink()
    night = refresh(path=own_hub, reference_prompts=2, steps=1, training_prompts=16)
    assert [expert.ref for expert in night.discovery.retired] == ["smallhub:9003@90031"]
    assert night.build.images == 0
    assert night.build.retired == ("smallhub:9003@90031",)
    assert night.training is not None
    assert "training is due: 100 %" in night.why, "the planner that ships knows none of them"
    again = refresh(path=own_hub, reference_prompts=2, steps=1, training_prompts=16)
    assert again.training is None, again.why


def test_a_training_that_was_due_when_the_night_was_killed_is_due_the_next_night(
    home, own_hub, monkeypatch
):
    import flows.refresh
    from diffgraph.artifacts import write_text

    write_text(family_folder(home, "emoji64") / SEEN, current_id(family_folder(home, "emoji64")))
    (own_hub / "models" / "9003.json").unlink()

    def killed(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    night = {"path": own_hub, "reference_prompts": 2, "steps": 1, "training_prompts": 16}
    with monkeypatch.context() as patch:
        patch.setattr(flows.refresh, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            flows.refresh.refresh(**night)
    told = flows.refresh.refresh(**night)
    assert told.build.retired == (), "the graph itself was finished"
    assert told.training is not None
    assert "training is due: 33 %" in told.why


@pytest.mark.slow
def test_shards_run_in_dask_workers_by_a_setting(home):
    """The same build on a local cluster gives the same graph, bit for bit."""
    whole = current_id(family_folder(home, "emoji64"))
    shutil.rmtree(home / "scores")
    shutil.rmtree(family_folder(home, "emoji64") / "snapshots")
    (family_folder(home, "emoji64") / "current").unlink()
    script = "from flows.build_graph import build; print(build(reference_prompts=2).images)"
    environment = {**os.environ, "DIFFGRAPH_SCHEDULER": "local", "DIFFGRAPH_WORKERS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {script}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == 2 * (len(GOOD) + 1)
    assert current_id(family_folder(home, "emoji64")) == whole


def run_build() -> dict:
    """Build on two reference prompts, as the home was built, and return what it said."""
    from flows.build_graph import build

    return json.loads(build(reference_prompts=2).model_dump_json())


@pytest.mark.slow
def test_ctrl_c_stops_soon_and_the_same_command_goes_on(home):
    shutil.rmtree(home / "scores")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "build"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stderr:
            if line.startswith("calibrate"):
                break
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert told.strip().splitlines()[-1] == "diffgraph: stopped; the same command goes on from here"
    assert not list((home / "scores").glob(".*.part"))
