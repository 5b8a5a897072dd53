"""Training is reproducible, goes on exactly where it was killed, and keeps the best planner."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.errors import InputError
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.merging.plan import MergePlan
from diffgraph.planner.planner import Planner
from diffgraph.planner.training import (
    StepRecord,
    TrainingConfig,
    TrainingPrompt,
    has_learnt,
    history,
    train,
)

CONFIG = TrainingConfig(steps=6, prompts=2, checkpoint_every=2, validate_every=3, seed=5)


class Killed(BaseException):
    """The process was ended."""


def prompts(snapshot: GraphSnapshot, count: int = 5, first: int = 0) -> list[TrainingPrompt]:
    return [
        TrainingPrompt(
            f"prompt {n}", snapshot.refs[n % 3 : n % 3 + 3], snapshot.prompt_embeddings[n]
        )
        for n in range(first, first + count)
    ]


def low_is_good(
    plans: Sequence[MergePlan], prompts: Sequence[str], seeds: Sequence[int]
) -> list[float]:
    """Reward weak experts, with a little of the noise that images have."""
    assert len(plans) == len(prompts) == len(seeds)
    return [
        (seed % 7) / 100 - sum(expert.coefficient for expert in plan.experts)
        for plan, seed in zip(plans, seeds, strict=True)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "planner.safetensors")


def equal(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_trains_the_same_planner(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        config = CONFIG.model_copy(update={"seed": seed})
        train(small_snapshot, prompts(small_snapshot), low_is_good, config, tmp_path / name)
    assert equal(tmp_path / "one", tmp_path / "two")
    assert not equal(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_killed_training_ends_as_if_it_had_not_been(
    small_snapshot: GraphSnapshot, tmp_path: Path, killed_at: int
) -> None:
    practice, trials = prompts(small_snapshot, 4), prompts(small_snapshot, 1, first=4)
    seen: list[StepRecord] = []

    def kill(record: StepRecord) -> None:
        if record.step == killed_at:
            raise Killed

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(small_snapshot, practice, low_is_good, CONFIG, whole, validation=trials)
    with pytest.raises(Killed):
        train(small_snapshot, practice, low_is_good, CONFIG, broken, kill, trials)
    assert not (broken / "config.json").exists()
    train(small_snapshot, practice, low_is_good, CONFIG, broken, seen.append, trials)
    assert seen[0].step == killed_at - killed_at % CONFIG.checkpoint_every + 1
    assert equal(whole, broken)
    assert history(whole) == history(broken)
    assert Planner.load(whole).config == Planner.load(broken).config


def test_a_training_that_is_stopped_among_rewards_ends_as_if_it_had_not_been(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    """SIGTERM ends the drawing of a batch: before any step, within any, at a validation."""
    practice, trials = prompts(small_snapshot, 4), prompts(small_snapshot, 1, first=4)
    calls = 0

    def stopped(*what: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Killed
        return low_is_good(*what)

    stop_at = 0
    train(small_snapshot, practice, stopped, CONFIG, tmp_path / "whole", validation=trials)
    every = range(1, calls + 1)
    assert len(every) == 1 + CONFIG.steps + 2
    for stop_at in every:
        calls, folder = 0, tmp_path / str(stop_at)
        with pytest.raises(Killed):
            train(small_snapshot, practice, stopped, CONFIG, folder, validation=trials)
        train(small_snapshot, practice, low_is_good, CONFIG, folder, validation=trials)
        assert equal(tmp_path / "whole", folder)
        assert history(tmp_path / "whole") == history(folder)


def test_a_damaged_checkpoint_is_passed_over(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    practice = prompts(small_snapshot)
    train(small_snapshot, practice, low_is_good, CONFIG, tmp_path)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["00000004", "00000006"]
    before = weights(tmp_path)
    (kept[-1] / "state.safetensors").write_bytes(b"damaged")
    seen: list[StepRecord] = []
    train(small_snapshot, practice, low_is_good, CONFIG, tmp_path, seen.append)
    assert [record.step for record in seen] == [5, 6]
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())


@pytest.mark.parametrize(
    "damage",
    ["{}", "[]", "null", "[" * 100_000, '{"identity": {}}', "no record", "no steps", "no moments"],
)
def test_a_damaged_record_is_set_aside_and_training_starts_anew(
    small_snapshot: GraphSnapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    practice = prompts(small_snapshot)
    config = CONFIG.model_copy(update={"steps": 2})
    train(small_snapshot, practice, low_is_good, config, tmp_path)
    before = weights(tmp_path)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    record, state = kept / "progress.json", kept / "state.safetensors"
    facts = json.loads(record.read_text())
    if damage == "no record":
        del facts["records"]
    elif damage == "no steps":
        facts["records"] = []
    elif damage == "no moments":
        save_file({"told": torch.tensor(2)}, state)
    else:
        facts = damage
    record.write_text(facts if isinstance(facts, str) else json.dumps(facts))
    seen: list[StepRecord] = []
    train(small_snapshot, practice, low_is_good, config, tmp_path, seen.append)
    assert [step.step for step in seen] == [1, 2]
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path).items())
    assert (tmp_path / "checkpoints" / f"damaged-{kept.name}").is_dir()
    assert "is damaged" in caplog.text


def test_another_training_does_not_go_on_from_this_one(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    train(small_snapshot, prompts(small_snapshot), low_is_good, CONFIG, tmp_path)
    seen: list[StepRecord] = []
    other = CONFIG.model_copy(update={"steps": 3})
    train(small_snapshot, prompts(small_snapshot), low_is_good, other, tmp_path, seen.append)
    assert [record.step for record in seen] == [1, 2, 3]
    assert len(history(tmp_path)) == 3


def test_finished_training_is_not_done_again(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    practice = prompts(small_snapshot)
    train(small_snapshot, practice, low_is_good, CONFIG, tmp_path)

    def never(*_: object) -> list[float]:
        raise AssertionError("an image was drawn again")

    planner = train(small_snapshot, practice, never, CONFIG, tmp_path)
    assert planner.config.metrics["reward_last"]


def test_rewards_go_up_and_are_recorded(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 20, "prompts": 4})
    trials = prompts(small_snapshot, 1, first=4)
    planner = train(
        small_snapshot, prompts(small_snapshot, 4), low_is_good, config, tmp_path, validation=trials
    )
    metrics = planner.config.metrics
    assert metrics["validation"] > metrics["validation_untrained"] + 0.2
    assert metrics["reward_last"] > metrics["reward_first"] + 0.2
    assert planner.config.snapshot == small_snapshot.id
    assert planner.config.training == config.model_dump(mode="json")
    assert [r.step for r in history(tmp_path) if r.validation is not None] == [
        3,
        6,
        9,
        12,
        15,
        18,
        20,
    ]


def test_a_training_that_only_does_harm_keeps_the_untrained_planner(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    trials = prompts(small_snapshot, 1, first=4)

    def misleading(
        plans: Sequence[MergePlan], texts: Sequence[str], seeds: Sequence[int]
    ) -> list[float]:
        sign = 1.0 if texts[0] == trials[0].text else -1.0
        return [sign * sum(expert.coefficient for expert in plan.experts) for plan in plans]

    practice = prompts(small_snapshot, 4)
    planner = train(small_snapshot, practice, misleading, CONFIG, tmp_path, validation=trials)
    metrics = planner.config.metrics
    assert metrics["validation"] == metrics["validation_untrained"]


def test_images_that_cannot_be_drawn_do_not_end_it(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    def flaky(
        plans: Sequence[MergePlan], texts: Sequence[str], seeds: Sequence[int]
    ) -> list[float]:
        return [math.nan if n % 3 else float(n) for n, _ in enumerate(plans)]

    planner = train(small_snapshot, prompts(small_snapshot), flaky, CONFIG, tmp_path)
    assert all(torch.isfinite(value).all() for value in planner.vgae.state_dict().values())


def test_every_prompt_is_practised_and_its_plans_share_a_seed(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    met: list[str] = []

    def watching(
        plans: Sequence[MergePlan], texts: Sequence[str], seeds: Sequence[int]
    ) -> list[float]:
        for start in range(0, len(plans), CONFIG.search.samples):
            group = slice(start, start + CONFIG.search.samples)
            assert len(set(texts[group])) == len(set(seeds[group])) == 1
            assert len({plan.id for plan in plans[group]}) == CONFIG.search.samples
            met.append(texts[start])
        return [0.0] * len(plans)

    train(small_snapshot, prompts(small_snapshot, 4), watching, CONFIG, tmp_path)
    assert sorted(met[:4]) == sorted(met[4:8]) == [f"prompt {n}" for n in range(4)]


def test_prompts_without_experts_cannot_be_practised(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    nobody = TrainingPrompt("alone", (), small_snapshot.prompt_embeddings[0])
    with pytest.raises(InputError, match="no training prompt has an expert"):
        train(small_snapshot, [nobody], low_is_good, CONFIG, tmp_path)


def test_an_image_too_few_is_an_error_of_the_caller(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="rewards for"):
        train(small_snapshot, prompts(small_snapshot), lambda *_: [0.0], CONFIG, tmp_path)


def test_checkpoints_hold_no_pickle(small_snapshot: GraphSnapshot, tmp_path: Path) -> None:
    train(small_snapshot, prompts(small_snapshot), low_is_good, CONFIG, tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".safetensors",
        ".json",
    }
    shutil.rmtree(tmp_path / "checkpoints")
    assert history(tmp_path) == []


def test_a_planner_has_learnt_only_by_steps_that_drew_something(
    small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    def nothing(plans: Sequence[MergePlan], *_: object) -> list[float]:
        return [math.nan] * len(plans)

    config = TrainingConfig(steps=1, prompts=1)
    train(small_snapshot, prompts(small_snapshot), nothing, config, tmp_path / "nothing")
    train(small_snapshot, prompts(small_snapshot), low_is_good, config, tmp_path / "something")
    assert not has_learnt(tmp_path / "nothing")
    assert has_learnt(tmp_path / "something")
    assert not has_learnt(tmp_path), "nobody was trained here"
