"""Who was taken out is gone from everywhere, stays out, and may be let back."""

from pathlib import Path

import pyarrow as pa
import pytest

from diffgraph.agents.offline import OfflineAgent
from diffgraph.artifacts import write_text
from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import InputError, MissingInput
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.registration import Cards, register_all
from diffgraph.graph.schema import SCORES, ExpertNode
from diffgraph.graph.snapshot import write_snapshot
from diffgraph.homes import family_folder
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.session.known_experts import KnownExperts
from diffgraph.session.removal import remove
from diffgraph.tables import write_table
from tests.small_hub import write_hub

FAMILY = get_family("emoji64")
AGENT = OfflineAgent()
PENCIL, NIGHT = "smallhub:9001@90011", "smallhub:9002@90021"


def scores_of(home: Path, ref: str) -> Path:
    row = {"expert": ref, "prompt": "cat", "seed": 1, **dict.fromkeys(SCORE_NAMES, 0.5)}
    part = home / "scores" / f"{ref[9:13]}.parquet"
    write_table(part, pa.Table.from_pylist([row], schema=SCORES))
    return part


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a small hub's experts, their cards and scores, and a graph of them."""
    home, hub = tmp_path / "home", write_hub(tmp_path / "hub")
    library = Library(home, bundled=())
    discover(FolderCrawler(hub), library, FAMILY)
    experts = library.experts("ready")
    cards, _ = register_all(experts, library, AGENT, Cards(home / "cards"))
    for ref in (PENCIL, NIGHT):
        scores_of(home, ref)
    nodes = [ExpertNode(one, card) for one, card in zip(experts, cards, strict=True)]
    place, empty = family_folder(home, "emoji64"), SCORES.empty_table()
    write_snapshot(place, "emoji64", nodes, [], empty, SamplerConfig(), "tests")
    return home


def everything(home: Path) -> bytes:
    """All that is written below the library and the cards."""
    folders = (home / "library", home / "cards")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files if path.name != "removed.json")


def test_nothing_of_an_expert_is_left(home):
    before = Library(home).get(PENCIL)
    assert b"pencil" in everything(home).lower()
    done = remove(home, PENCIL, "its maker asked")
    assert done.experts == (PENCIL,)
    assert done.scores == 1
    assert list(done.still_in) == ["emoji64"], "the graph in force still names it"
    assert b"pencil" not in everything(home).lower()
    assert not (home / "library" / "files" / f"{before.sha256}.safetensors").exists()
    assert [part.name for part in (home / "scores").glob("*.parquet")] == ["9002.parquet"]
    library = Library(home)
    assert library.find(PENCIL) is None
    assert library.find(NIGHT) is not None
    assert library.listing(NIGHT).name == "Moonshine v1"
    assert library.path_of(library.get(NIGHT).sha256).is_file()
    assert Cards(home / "cards").find(library.get(NIGHT).page_sha256, AGENT) is not None


def test_it_stays_out_until_it_is_let_back(home, tmp_path, caplog):
    remove(home, PENCIL, "its maker asked")
    hub, library = FolderCrawler(tmp_path / "hub"), Library(home, bundled=())
    report = discover(hub, library, FAMILY)
    assert not report.new
    assert not report.retired
    assert any("1 experts of smallhub are passed over" in line for line in caplog.messages)
    assert library.find(PENCIL) is None
    assert library.allow(PENCIL)
    assert not library.allow(PENCIL)
    assert [one.ref for one in discover(hub, library, FAMILY).new] == [PENCIL]


def test_a_plan_that_names_it_is_refused_with_the_reason(home):
    remove(home, PENCIL, "its maker asked")
    with pytest.raises(MissingInput, match=f"{PENCIL} was removed .*: its maker asked"):
        KnownExperts(home, FAMILY).get(PENCIL)


def test_an_expert_that_ships_can_be_removed(tmp_path):
    known = KnownExperts(tmp_path, FAMILY)
    ref = next(iter(known.bundled))
    assert known.get(ref).ref == ref
    remove(tmp_path, ref.rpartition("@")[0], "not wanted here")
    with pytest.raises(MissingInput, match="not wanted here"):
        known.get(ref)


def test_all_versions_of_a_model_go_and_later_ones_too(home):
    done = remove(home, "smallhub:9001", "taken down")
    assert done.experts == (PENCIL,)
    assert Library(home).why_removed("smallhub:9001@999") == "taken down"
    assert Library(home).why_removed("smallhub:90011@1") is None


def test_what_two_experts_share_stays(home):
    library = Library(home, bundled=())
    pencil = library.get(PENCIL)
    library.update([library.get(NIGHT).model_copy(update={"sha256": pencil.sha256})])
    remove(home, PENCIL, "a mistake")
    assert Library(home).path_of(pencil.sha256).is_file()


@pytest.mark.parametrize("step", ["Cards.forget", "Library.purge"])
def test_a_removal_that_is_killed_has_taken_effect_and_can_be_ended(home, monkeypatch, step):
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    owner, name = step.split(".")
    with monkeypatch.context() as patched:
        patched.setattr({"Cards": Cards, "Library": Library}[owner], name, dies)
        with pytest.raises(KeyboardInterrupt):
            remove(home, PENCIL, "its maker asked")
    assert Library(home).find(PENCIL) is None
    library = Library(home)  # a writer between the two loses nothing that is still to go
    library.retire([NIGHT])
    assert remove(home, PENCIL, "its maker asked").experts == (PENCIL,)
    assert b"pencil" not in everything(home).lower()


@pytest.mark.parametrize(
    ("ref", "reason", "says"),
    [("../x", "why", "show experts"), ("", "why", "not a reference"), (PENCIL, " ", "say why")],
)
def test_a_slip_is_told_and_changes_nothing(home, ref, reason, says):
    before = everything(home)
    with pytest.raises(InputError, match=says):
        remove(home, ref, reason)
    assert everything(home) == before
    assert not (home / "library" / "removed.json").exists()


def test_a_damaged_record_of_removals_is_never_taken_for_none(home):
    remove(home, PENCIL, "its maker asked")
    write_text(home / "library" / "removed.json", "{")
    with pytest.raises(MissingInput, match=r"removed\.json is damaged"):
        Library(home).experts()
