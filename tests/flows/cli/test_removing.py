"""Taking things out of a home, as a person says it."""

import json

from diffgraph.homes import write_pointer


def test_an_expert_is_removed_and_let_back(diffgraph, tmp_path):
    home = ("--home", tmp_path)
    plan = ("plan", "a cat, pencil sketch", "--json", *home)
    chosen = json.loads(diffgraph(*plan).out)
    document = json.dumps(chosen)
    ref = next(expert["ref"] for expert in _experts(chosen))
    told = diffgraph("remove", ref, "--reason", "its maker asked", *home)
    assert told.code == 0
    assert f"{ref} is out for good (its maker asked)" in told.out
    assert ref not in [expert["ref"] for expert in _experts(json.loads(diffgraph(*plan).out))]
    assert diffgraph("remove", ref, "--allow", *home).code == 0
    assert json.dumps(json.loads(diffgraph(*plan).out)) == document
    told = diffgraph("remove", ref, "--allow", *home)
    assert told.code == 1
    assert "was not removed" in only_line(told.err)


def only_line(text):
    (line,) = text.strip().splitlines()
    return line


def _experts(document):
    return [expert for one in document["plans"] for expert in one["plan"]["experts"]]


def test_a_removal_without_a_reason_is_refused(diffgraph, tmp_path):
    told = diffgraph("remove", "smallhub:1@1", "--home", tmp_path)
    assert told.code == 1
    assert "--reason" in only_line(told.err)


def test_cleaning_shows_first_and_frees_when_told(diffgraph, tmp_path):
    for name in ("g1", "g2"):
        graph = tmp_path / "families" / "emoji64" / "snapshots" / name / "manifest.json"
        graph.parent.mkdir(parents=True)
        graph.write_text("spare")
    write_pointer(tmp_path / "families" / "emoji64" / "current", "g1")
    (tmp_path / "answers" / "ab").mkdir(parents=True)
    told = diffgraph("clean", "--home", tmp_path)
    assert told.code == 0
    assert "graphs that are not in force" in told.out
    assert "nothing was removed; --yes frees" in told.out
    assert graph.exists()
    assert "freed" in diffgraph("clean", "--yes", "--home", tmp_path).out
    assert not graph.exists()
    assert (tmp_path / "answers" / "ab").is_dir(), "answers were paid for: only by name"
    assert json.loads(diffgraph("clean", "answers", "--yes", "--json", "--home", tmp_path).out)
    assert not (tmp_path / "answers" / "ab").exists()


def test_a_kind_that_is_not_there_is_told_with_those_that_are(diffgraph, tmp_path):
    told = diffgraph("clean", "everything", "--home", tmp_path)
    assert told.code == 1
    assert "there is images, downloads, graphs" in only_line(told.err)
