from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffgraph.errors import EmptyPrompt, InputError, MissingInput
from diffgraph.evaluation.retrieval_metrics import (
    DescribedExperts,
    Label,
    evaluate_retrieval,
    read_labels,
)
from diffgraph.families.emoji64 import ASSETS
from diffgraph.graph.snapshot import open_snapshot

REFS = tuple(f"hub:{number}@{number}0" for number in range(100))


class ByNumber:
    """Ranks the experts by number, from the one the prompt starts with, and chooses two."""

    def rank(self, prompt: str, count: int) -> Sequence[str]:
        first = self.first(prompt)
        return [REFS[(first + place) % len(REFS)] for place in range(count)]

    def choose(self, prompt: str) -> Sequence[str]:
        return self.rank(prompt, 2)

    def first(self, prompt: str) -> int:
        if not prompt.strip(", "):
            raise EmptyPrompt("the prompt names nothing to draw")
        return int(prompt.split()[0])


def measured(*labels: tuple[str, tuple[str, ...]]):
    return evaluate_retrieval(
        [Label(prompt=prompt, experts=experts) for prompt, experts in labels], ByNumber(), REFS
    )


def test_recall_is_the_share_of_the_right_experts_among_the_first():
    summary, results = measured(
        ("0 a", ("hub:0", "hub:4@40")), ("10 b", ("hub:19@190",)), ("3 c", ("hub:80",))
    )
    assert summary.recall_at == {
        1: pytest.approx(0.5 / 3, abs=1e-4),
        5: pytest.approx(1 / 3, abs=1e-4),
        10: pytest.approx(2 / 3, abs=1e-4),
        50: pytest.approx(2 / 3, abs=1e-4),
    }
    assert results[0].places == {"hub:0": 1, "hub:4@40": 5}
    assert results[2].places == {"hub:80": None}


def test_selection_is_judged_by_what_it_chose():
    summary, results = measured(("0 a", ("hub:0", "hub:1")), ("5 b", ("hub:6", "hub:50")))
    assert summary.selection_recall == 0.75
    assert summary.selection_precision == 0.75
    assert summary.whole == 0.5
    assert summary.others == 0.5
    assert results[1].missed == ("hub:50",)
    assert results[1].others == ("hub:5@50",)


def test_another_version_is_not_what_was_asked_for():
    summary, results = measured(("7 a", ("hub:7@71",)))
    assert results[0].missed == ("hub:7@71",)
    assert summary.reachable == 0.0
    assert measured(("7 a", ("hub:7",)))[0].selection_recall == 1.0


def test_an_expert_that_is_not_in_the_graph_counts_as_missed_and_is_told():
    summary, _ = measured(("0 a", ("hub:0", "civitai:58390")))
    assert summary.reachable == 0.5
    assert summary.recall_at[50] == 0.5


def test_a_prompt_without_right_experts_counts_for_the_others_only():
    summary, _ = measured(("0 a", ("hub:0",)), ("0 b", ()))
    assert summary.recall_at[1] == 1.0
    assert summary.selection_recall == 1.0
    assert summary.selection_precision == 0.25


def test_a_prompt_that_cannot_be_read_finds_nothing_and_says_why():
    summary, results = measured((", ,", ("hub:0",)), ("0 a", ("hub:0",)))
    assert summary.problems == 1
    assert summary.recall_at[50] == 0.5
    assert "nothing to draw" in results[0].problem


def test_reads_labels_and_whatever_else_the_rows_hold(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '\ufeff{"prompt": "a cat", "experts": ["civitai:1", "civitai:1", "hf:a/b@main"], "id": 3}\n'
        '\n{"prompt": "a dog", "experts": []}\n',
        encoding="utf-8",
    )
    assert read_labels(path) == (
        Label(prompt="a cat", experts=("civitai:1", "hf:a/b@main")),
        Label(prompt="a dog", experts=()),
    )


def test_reads_labels_from_a_table_and_names_a_bad_row(tmp_path):
    path = tmp_path / "labels.parquet"
    rows = [{"prompt": "a cat", "experts": ["civitai:1"], "id": n} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_labels(path) == (Label(prompt="a cat", experts=("civitai:1",)),) * 2
    rows[1]["experts"] = ["58390"]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError, match=r"labels\.parquet:2: .*'58390'"):
        read_labels(path)
    pq.write_table(pa.table({"text": ["a cat"]}), path)
    with pytest.raises(InputError, match=r"labels\.parquet:1: .*prompt is missing"):
        read_labels(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(MissingInput, match=r"labels\.parquet cannot be read"):
        read_labels(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[" * 3000, "not JSON"),
        ("[]", "found list"),
        ('{"experts": ["civitai:1"]}', "prompt is missing"),
        ('{"prompt": " ", "experts": ["civitai:1"]}', "prompt is ' '"),
        ('{"prompt": "a cat"}', "experts is missing"),
        ('{"prompt": "a cat", "experts": "civitai:1"}', "experts is 'civitai:1'"),
        ('{"prompt": "a cat", "experts": [58390]}', "not 58390"),
        ('{"prompt": "a cat", "experts": ["58390"]}', "not '58390'"),
        ('{"prompt": "a cat", "experts": ["civitai:1@2@3"]}', "source:id"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"prompt": "a cat", "experts": ["civitai:1"]}\n' + line, encoding="utf-8")
    with pytest.raises(InputError, match=r"labels\.jsonl:2: ") as raised:
        read_labels(path)
    assert said in str(raised.value)


def test_a_file_without_labels_or_without_text_is_refused(tmp_path):
    path = tmp_path / "labels.jsonl"
    for content in (b"", b'{"prompt": "a", "experts": []}', b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_labels(path)
    with pytest.raises(MissingInput):
        read_labels(tmp_path / "nowhere.jsonl")


def test_searches_what_is_described_and_may_be_merged_whether_its_weights_are_here_or_not():
    snapshot = open_snapshot(ASSETS / "snapshot")
    nodes = snapshot.nodes.to_pylist()
    nodes[0]["allow_derivatives"] = False
    nodes[1]["status"] = "registered_only"
    nodes[2]["agent"] = ""
    snapshot.__dict__["nodes"] = pa.Table.from_pylist(nodes, schema=snapshot.nodes.schema)
    found = DescribedExperts.of(snapshot)
    refs = [node["ref"] for node in nodes]
    assert refs[1] in found.refs
    assert not {refs[0], refs[2]} & set(found.refs)
    assert found.embeddings.shape == (len(found.refs), 384)
    row = found.refs.index(refs[1])
    assert found.texts[row] == nodes[1]["text"]
    np.testing.assert_array_equal(found.embeddings[row], nodes[1]["embedding"])
