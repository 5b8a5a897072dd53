"""What is freed is needed by nobody; what is in force stays."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from diffgraph.errors import MissingInput
from diffgraph.experts.expert import Expert, ExpertRef, Listing
from diffgraph.experts.library import Library
from diffgraph.graph.schema import BASE, SCORES
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.session.cleaning import KINDS, free, spare
from diffgraph.tables import write_table

KEPT = {
    "families/emoji64/current": "g3",
    "families/emoji64/champion": "p2",
    "families/emoji64/seen": "g2",
    "families/emoji64/snapshots/g1/manifest.json": "trained on",
    "families/emoji64/snapshots/g2/manifest.json": "seen",
    "families/emoji64/snapshots/g3/manifest.json": "current",
    "families/emoji64/planners/p2/config.json": json.dumps({"snapshot": "g1"}),
    "families/emoji64/planners/p3/config.json": "recorded soon",
    "families/sd15/current": "g9",
    "families/sd15/snapshots/g9/manifest.json": "current",
    "answers/spent.jsonl": "{}",
    "answers/batches/open.json": "{}",
    "cards/cards.jsonl": "",
    "unsent/1.json": '{"planner": "/somewhere/p3"}',
    "mine.damaged/notes.txt": "not ours",
}
GOES = {
    "images": ["images/a.png", "reports/g3-p2/report.html"],
    "downloads": ["library/unfinished/half"],
    "graphs": [
        "families/emoji64/snapshots/g0/manifest.json",
        "families/sd15/snapshots/g8/manifest.json",
    ],
    "planners": ["families/emoji64/planners/p1/step-3.safetensors"],
    "weights": [f"library/files/{'a' * 64}.safetensors"],
    "scores": ["scores/gone.parquet"],
    "damaged": [
        "families/emoji64/snapshots/g4.damaged/manifest.json",
        "families/emoji64/current.damaged-2",
        "mlflow.db.damaged",
        "library/experts.jsonl.damaged",
    ],
    "answers": ["answers/ab/answer.json"],
}


def scores_of(path: Path, ref: str) -> None:
    row = {"expert": ref, "prompt": "cat", "seed": 1, **dict.fromkeys(SCORE_NAMES, 0.5)}
    write_table(path, pa.Table.from_pylist([row], schema=SCORES))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    files = {**KEPT, **{name: "spare" for names in GOES.values() for name in names}}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    expert = Expert(ref="hub:1@1", name="a", kind="peft", family="emoji64", sha256="b" * 64)
    weights = tmp_path / "new"
    weights.write_text("weights")
    listing = Listing(ref=ExpertRef.parse("hub:1@1"), name="a")
    Library(tmp_path, bundled=()).add(expert, listing, weights)
    scores_of(tmp_path / "scores" / "kept.parquet", "hub:1@1")
    scores_of(tmp_path / "scores" / "base.parquet", BASE)
    scores_of(tmp_path / "scores" / "gone.parquet", "hub:7@7")
    return tmp_path


def files_of(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


def test_looking_changes_nothing_and_tells_the_size(home):
    before = files_of(home)
    found = {one.kind: one for one in spare(home)}
    assert files_of(home) == before
    assert list(found) == list(KINDS)
    assert found["images"].bytes == 2 * len("spare")
    assert len(found["graphs"].paths) == 2


@pytest.mark.parametrize("kind", GOES)
def test_each_kind_frees_its_own_and_nothing_else(home, kind):
    before = files_of(home)
    free(one for one in spare(home) if one.kind == kind)
    assert before - files_of(home) == set(GOES[kind])
    assert {one.kind: one.bytes for one in spare(home)}[kind] == 0


def test_all_of_it_leaves_what_is_needed(home):
    free(spare(home))
    assert set(KEPT) < files_of(home)
    assert not files_of(home) & {name for names in GOES.values() for name in names}
    assert Library(home, bundled=()).path_of("b" * 64).is_file()


def test_a_home_whose_pointer_is_damaged_is_not_cleaned(home):
    (home / "families" / "emoji64" / "current").write_text("")
    with pytest.raises(MissingInput, match="current holds no id"):
        spare(home)


def test_what_a_link_leads_to_stays(home, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.png").write_text("mine")
    (home / "images" / "link").symlink_to(outside)
    free(spare(home))
    assert not (home / "images" / "link").is_symlink()
    assert (outside / "a.png").read_text() == "mine"


def test_an_empty_home_has_nothing_to_spare(tmp_path):
    assert all(one.paths == () for one in spare(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
