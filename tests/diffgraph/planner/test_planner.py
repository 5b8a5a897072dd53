"""A planner is two files; it plans the experts it is given, and nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.graph.snapshot import GraphSnapshot
from diffgraph.planner.planner import Planner, PlannerConfig
from tests.planners import with_metrics


@dataclass(frozen=True)
class Chosen:
    prompt: str
    refs: tuple[str, ...]


@pytest.fixture
def planner(small_snapshot: GraphSnapshot) -> Planner:
    return Planner.new(PlannerConfig(family="emoji64", snapshot=small_snapshot.id, seed=3))


def test_plans_what_was_chosen(planner: Planner, small_snapshot: GraphSnapshot) -> None:
    refs = small_snapshot.refs[1:5]
    plan = planner.plan(small_snapshot, Chosen("a cat", refs), small_snapshot.prompt_embeddings[0])
    assert tuple(expert.ref for expert in plan.experts) == refs
    assert plan.family == "emoji64"
    assert plan.normalisation == "strength"
    assert plan.experts[0].sha256 == small_snapshot.sha256s[1]
    assert list(plan.coefficients().values()) == pytest.approx(
        small_snapshot.strengths[1:5].tolist(), abs=0.02
    )


def test_the_papers_softmax_is_an_option(planner: Planner, small_snapshot: GraphSnapshot) -> None:
    chosen = Chosen("a cat", small_snapshot.refs)
    plan = planner.plan(small_snapshot, chosen, small_snapshot.prompt_embeddings[0], "softmax")
    final = plan.coefficients()
    assert sum(final[ref] for ref in small_snapshot.refs[:2]) == pytest.approx(1.0)
    assert sum(final[ref] for ref in small_snapshot.refs[2:]) == pytest.approx(1.0)


def test_nothing_chosen_is_the_base(planner: Planner, small_snapshot: GraphSnapshot) -> None:
    plan = planner.plan(small_snapshot, Chosen("a cat", ()), small_snapshot.prompt_embeddings[0])
    assert plan.experts == ()


def test_loads_as_it_was_saved(
    planner: Planner, small_snapshot: GraphSnapshot, tmp_path: Path
) -> None:
    with_metrics(planner, validation=0.5).save(tmp_path)
    again = Planner.load(tmp_path)
    assert again.config.metrics == {"validation": 0.5}
    assert again.config.snapshot == small_snapshot.id
    chosen = Chosen("a cat", small_snapshot.refs)
    embedding = small_snapshot.prompt_embeddings[1]
    assert again.plan(small_snapshot, chosen, embedding) == planner.plan(
        small_snapshot, chosen, embedding
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("no config", "config.json"),
        ("no weights", "planner.safetensors"),
        ("other version", "version 99"),
        ("cut", "planner.safetensors"),
        ("other size", "should be"),
        ("huge", "less than or equal"),
        ("deep", "nested too deeply"),
        ("misspelt", "hiden"),
        ("a list", "valid dictionary"),
    ],
)
def test_a_folder_that_holds_no_planner_is_named(
    planner: Planner, tmp_path: Path, damage: str, reason: str
) -> None:
    planner.save(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "planner.safetensors"
    facts = json.loads(config.read_text())
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "other version":
        config.write_text(json.dumps(facts | {"version": 99}))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other size":
        config.write_text(json.dumps(facts | {"vgae": {"hidden": 7}}))
    elif damage == "huge":
        config.write_text(json.dumps(facts | {"vgae": {"hidden": 20_000}}))
    elif damage == "deep":
        config.write_text("[" * 100_000)
    elif damage == "misspelt":
        config.write_text(json.dumps(facts | {"vgae": {"hiden": 7}}))
    else:
        config.write_text("[]")
    with pytest.raises(MissingInput, match=reason) as told:
        Planner.load(tmp_path)
    assert tmp_path.name in str(told.value)
    if damage in ("huge", "misspelt"):  # one line, without the words of the library that checks
        assert "vgae.hi" in str(told.value)
        assert "pydantic" not in str(told.value)


def test_no_network_is_made_before_its_file_is_looked_at(
    planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vgae": {"hidden": 2048}}))
    made: list[PlannerConfig] = []
    monkeypatch.setattr(Planner, "new", made.append)
    with pytest.raises(MissingInput, match="should be"):
        Planner.load(tmp_path)
    assert not made


def test_an_expert_unknown_to_the_snapshot_is_named(
    planner: Planner, small_snapshot: GraphSnapshot
) -> None:
    with pytest.raises(SnapshotError, match="folder:gone@1"):
        planner.plan(
            small_snapshot, Chosen("a cat", ("folder:gone@1",)), small_snapshot.prompt_embeddings[0]
        )


def test_a_single_wrong_bit_of_the_weights_is_found(planner: Planner, tmp_path: Path) -> None:
    planner.save(tmp_path)
    file = tmp_path / "planner.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(MissingInput, match=r"planner\.safetensors is damaged"):
        Planner.load(tmp_path)
