"""The stages in miniature: what is finished stays, what is not goes on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffgraph.errors import InputError, MissingInput, ServiceUnavailable
from recipes.emoji64 import __main__ as command
from recipes.emoji64 import art as art_room
from recipes.emoji64.art import load_art, pack_art, save_art
from recipes.emoji64.expert_stage import make_experts, make_some_experts
from recipes.emoji64.loop import LoopConfig
from recipes.emoji64.recipe_settings import RecipeSettings, rehearsal
from recipes.emoji64.scorer_stage import make_scorers, make_some_scorers
from recipes.emoji64.stages import STAGES, make_base, refine_base, run_stage
from tests.waiting import wait_for

EXPERTS = ("night", "puffy_3d")
ROOT = Path(__file__).parents[3]


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def settings(few_pictures, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    save_art(few_pictures, cache)
    small = rehearsal(RecipeSettings(cache, tmp_path_factory.mktemp("out"), device="cpu"))
    one = LoopConfig(steps=1, learning_rate=1e-3)
    return replace(
        small, autoencoder=one, denoiser=one, refining=one, batch=2, refining_batch=2,
        expert_batch=2, expert_pictures=4, expert_steps=0.001, experts=EXPERTS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(settings):
    make_base(settings)
    unrefined = load_file(settings.out / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    refine_base(settings)
    return unrefined


@pytest.fixture(scope="module")
def made(settings, base):
    make_some_experts(settings, EXPERTS)
    return settings.out


@pytest.fixture
def own(settings, made, tmp_path):
    """A settings with a copy of what is made, to change it."""
    return replace(settings, out=Path(shutil.copytree(made, tmp_path / "own")))


def test_the_base_is_made_then_refined(settings, base):
    refined = load_file(settings.out / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    assert refined.keys() == base.keys()
    assert any((refined[name] != base[name]).any() for name in base)
    record = json.loads((settings.out / "base" / "training.json").read_text())
    assert {"autoencoder", "denoiser", "refining"} <= record.keys()
    assert record["pictures"] == 30


def test_experts_tell_how_they_were_made(settings, made):
    for slug in EXPERTS:
        assert (made / "weights" / f"{slug}.safetensors").stat().st_size > 10_000
        record = json.loads((made / "weights" / f"{slug}.json").read_text())
        assert record["slug"] == slug
        assert record["pictures"] > 0


def test_good_adapters_learn_once_more_together(own):
    weights = own.out / "weights"
    before = {slug: (weights / f"{slug}.safetensors").read_bytes() for slug in EXPERTS}
    run_stage("together", own)
    after = {slug: (weights / f"{slug}.safetensors").read_bytes() for slug in EXPERTS}
    assert [slug for slug in EXPERTS if before[slug] != after[slug]] == ["night"]
    records = {slug: json.loads((weights / f"{slug}.json").read_text()) for slug in EXPERTS}
    assert "together" not in records["puffy_3d"]
    [told] = records["night"]["together"]["rounds"]
    assert told["steps"] == own.joint.rounds[0].steps
    assert not list(own.out.glob(".weights*"))

    before = stamps(own.out)
    for stage in ("art", "base", "refine", "experts", "together"):
        run_stage(stage, own)
    assert stamps(own.out) == before, "a second call does nothing"


def test_adapters_do_not_learn_together_before_all_are_made(settings, base, tmp_path):
    with pytest.raises(MissingInput, match="lacks night: run the stage `experts` first"):
        run_stage("together", replace(settings, out=tmp_path))


def test_a_killed_run_goes_on(own):
    """Whatever moment it is killed at, finished experts stay and the others are made."""
    made = own.out
    for path in (made / "weights").iterdir():
        path.unlink()
    arguments = [
        sys.executable, "-m", "recipes.emoji64", "experts", "--rehearse", "--device", "cpu",
        "--cache", own.cache, "--out", made, "--only", ",".join(EXPERTS),
    ]  # fmt: skip
    first = made / "weights" / f"{EXPERTS[0]}.safetensors"
    with subprocess.Popen(
        arguments, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ
    ) as process:
        wait_for(lambda: first.is_file() or process.poll() is not None)
        process.kill()
    kept = first.read_bytes()
    make_some_experts(own, EXPERTS)
    assert first.read_bytes() == kept
    assert not own.missing()
    assert all((made / "weights" / f"{slug}.json").is_file() for slug in EXPERTS)


def test_a_rehearsal_touches_nothing_that_ships(settings):
    assert settings.assets.is_relative_to(settings.out)
    assert settings.docs.is_relative_to(settings.out)


def test_scorers_are_asked_for_by_names_that_exist(settings, tmp_path):
    nothing = replace(settings, out=tmp_path)
    with pytest.raises(InputError, match=r"'clipscore', expected some of: training-0, .*hps"):
        make_some_scorers(nothing, ["test", "clipscore"])
    with pytest.raises(MissingInput, match=r"hps learns from .* not drawn: training-1, test"):
        make_some_scorers(nothing, ["training-0", "hps"])
    assert not list(tmp_path.iterdir())


def test_scorers_that_were_not_made_are_named(settings, tmp_path):
    nowhere = replace(settings, out=tmp_path, gpus=(0, 1))
    with pytest.raises(MissingInput, match="training-0, training-1, test"):
        make_scorers(nowhere)


def test_experts_that_were_not_made_are_named(settings, made, tmp_path):
    nowhere = replace(settings, out=tmp_path, workers=0)
    with pytest.raises(MissingInput, match="night, puffy_3d"):
        make_experts(nowhere)


class TestArt:
    def test_packed_art_is_not_fetched_again(self, settings, monkeypatch):
        monkeypatch.setattr(art_room, "fetch", pytest.fail)
        pack_art(settings.cache)
        assert len(load_art(settings.cache)) == 30

    def test_half_packed_art_is_fetched(self, settings, monkeypatch, tmp_path):
        def fetch(_):
            raise ServiceUnavailable("no network")

        monkeypatch.setattr(art_room, "fetch", fetch)
        (tmp_path / "art.npz").write_bytes((settings.cache / "art.npz").read_bytes())
        with pytest.raises(ServiceUnavailable):
            pack_art(tmp_path)


@pytest.mark.parametrize(
    ("stage", "only"),
    [("refine", []), ("experts", ["--only", "night"]), ("scorers", ["--only", "training-0"])],
)
def test_a_stage_that_needs_the_base_asks_for_it(stage, only, tmp_path, monkeypatch, capsys):
    folder = str(tmp_path)
    asked = [stage, "--rehearse", "--device", "cpu", "--cache", folder, "--out", folder, *only]
    monkeypatch.setattr(sys, "argv", ["recipe", *asked])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'base'} holds no base: run the stage `base` first"
    ]


def test_stages_are_in_order():
    assert " ".join(STAGES) == "art base refine experts together scorers publish prove"
