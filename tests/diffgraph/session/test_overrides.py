"""A config file changes what it names, and nothing that it misspells goes unnoticed."""

import json
import os

import pytest

from diffgraph.errors import InputError, MissingInput
from diffgraph.families.family import SamplerConfig
from diffgraph.planner.search import SearchConfig
from diffgraph.planner.training import TrainingConfig
from diffgraph.session import Session
from diffgraph.session.overrides import Overrides, configs, keys_of, read_overrides
from diffgraph.settings import Settings

FILE = """
[training]
steps = 7
[search]
samples = 3
[sampler]
steps = 5
[calibration]
prompts = 6
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "few.toml"
    path.write_text(FILE)
    monkeypatch.setenv("DIFFGRAPH_CONFIG", str(path))
    return path


def test_changes_what_is_named_and_leaves_the_rest(file):
    overrides = read_overrides(file)
    assert overrides.of(TrainingConfig()) == TrainingConfig(steps=7)
    assert overrides.of(SearchConfig(epochs=9)) == SearchConfig(epochs=9, samples=3)
    assert read_overrides(None) == Overrides()
    assert Overrides().of(SamplerConfig()) == SamplerConfig()


@pytest.mark.parametrize("table", sorted(configs()))
def test_every_key_that_can_be_changed_can_be_written(tmp_path, table):
    config = configs()[table]
    default = {name: None for name in keys_of(config)} | config().model_dump(mode="json")
    path = tmp_path / "all.toml"
    # JSON's values are TOML's too, but for null
    keys = [key for key in keys_of(config) if default[key] is not None]
    lines = [f"{key} = {json.dumps(default[key])}" for key in keys]
    path.write_text("\n".join([f"[{table}]", *lines]))
    assert read_overrides(path).of(config()) == config()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[trainings]\nsteps = 1", "no table .trainings.; there is calibration"),
        ("steps = 1", "no table .steps."),
        ("[training]\nstep = 1", "has no 'step'; it has steps"),
        ("[training]\nsearch = {samples = 4}", "has no 'search'"),
        ("[training]\nsteps = 0", "steps = 0: .*greater than"),
        ("[sampler]\nguidance = nan", "guidance = nan"),
        ("[sampler", "not TOML"),
    ],
)
def test_a_slip_is_told_with_what_there_is(tmp_path, content, says):
    path = tmp_path / "slip.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=says) as told:
        read_overrides(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "[0.9, inf]"])
@pytest.mark.parametrize("table", sorted(configs()))
def test_no_number_is_infinite(tmp_path, table, number):
    path = tmp_path / "infinite.toml"
    for key in keys_of(configs()[table]):
        path.write_text(f"[{table}]\n{key} = {number}")
        with pytest.raises(InputError, match=rf"\[{table}\] {key} = .*finite"):
            read_overrides(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingInput, match="nowhere"):
        read_overrides(tmp_path / "nowhere.toml")
    with pytest.raises(MissingInput, match="a folder, not a file"):
        read_overrides(tmp_path)


def test_a_file_from_a_stranger_neither_hangs_nor_fills_the_memory(tmp_path):
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        read_overrides(deep)
    hole = tmp_path / "hole.toml"
    hole.touch()
    os.truncate(hole, 2 << 30)
    with pytest.raises(MissingInput, match=r"hole.toml.*has 2147483648 bytes"):
        read_overrides(hole)
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(MissingInput, match="a pipe, not a file"):
        read_overrides(tmp_path / "pipe.toml")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_no_setting_can_be_changed(tmp_path, name):
    """Where keys are sent and things are kept: a config may come from a stranger."""
    path = tmp_path / "theirs.toml"
    path.write_text(f'{name} = "x"')
    with pytest.raises(InputError, match="there is no table"):
        read_overrides(path)
    for table in configs():
        path.write_text(f'[{table}]\n{name} = "x"')
        with pytest.raises(InputError, match="has no"):
            read_overrides(path)


@pytest.mark.usefixtures("file")
class TestEveryStage:
    def test_images_are_sampled_as_the_file_says(self):
        session = Session.of(Settings())
        assert session.family.sampler == SamplerConfig(steps=5)
        assert session.renderer.family.sampler == SamplerConfig(steps=5)
        assert session.configs()["sampler"] == {"steps": 5, "guidance": 4.0}

    def test_calibration(self):
        from flows.build_graph import _config

        config = _config(Settings(), "emoji64", None, None)
        assert (config.prompts, config.sampler.steps) == (6, 5)
        assert _config(Settings(), "emoji64", 2, None).prompts == 2  # what is asked for wins

    def test_training(self, file):
        from flows.train_planner import _config

        config = _config(read_overrides(file), steps=None, seed=3)
        assert config == TrainingConfig(steps=7, seed=3, search=SearchConfig(samples=3))
        assert _config(read_overrides(file), steps=2).steps == 2
