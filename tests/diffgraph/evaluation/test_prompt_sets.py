import json
import logging
from itertools import combinations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffgraph.errors import MissingInput, UnknownFamily
from diffgraph.evaluation.prompt_sets import (
    LONGEST_PROMPT,
    bundled_sets,
    load_prompts,
    read_prompts,
)

TRUTH = {
    "id": "bench-7",
    "prompt": "a red fox, sepia, at night",
    "subject": "fox",
    "group": "animals-nature",
    "style": "3d",
    "treatments": ["sepia", "night"],
    "experts": ["hub:sepia@1", "hub:night@1"],
    "also": "ignored",
}


def test_a_composed_prompt_keeps_the_truth_it_was_made_from(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(TRUTH))
    (prompt,) = load_prompts(path)
    assert prompt.id == "bench-7"
    assert prompt.text == "a red fox, sepia, at night"
    assert prompt.treatments == ("sepia", "night")
    assert prompt.experts == ("hub:sepia@1", "hub:night@1")


def test_broken_rows_are_counted_and_named_and_the_rest_is_read(tmp_path, caplog):
    rows = [
        b'{"prompt": "a cat"}',
        b"{not json",
        b'["a list"]',
        b'{"prompt": "   "}',
        b'{"prompt": 7}',
        b'{"text": "no such column"}',
        b'{"prompt": "caf\xff"}',
        json.dumps({"prompt": "x" * (LONGEST_PROMPT + 1)}).encode(),
        b'{"prompt": "a\\u0000b"}',
        b'{"prompt": "a dog", "treatments": 3}',
        b"",
        b'{"prompt": "a  bird\\n in  a tree"}',
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"\n".join(rows))
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts] == ["a cat", "a bird in a tree"]
    assert [row.row for row in found.broken] == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    with caplog.at_level(logging.WARNING):
        load_prompts(path)
    assert "9 broken rows" in caplog.text


def test_the_same_prompts_come_from_every_kind_of_file(tmp_path):
    texts = ["a cat, sepia", 'a "big" dog', "日本 fox"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    (tmp_path / "a.txt").write_text("\r\n".join(texts))
    quoted = "\n".join('"' + text.replace('"', '""') + '"' for text in texts)
    (tmp_path / "a.csv").write_text("\ufeffprompt\n" + quoted)
    pq.write_table(pa.table({"prompt": texts, "junk": [1, 2, 3]}), tmp_path / "a.parquet")
    for ending in ("jsonl", "txt", "csv", "parquet"):
        assert [prompt.text for prompt in load_prompts(tmp_path / f"a.{ending}")] == texts, ending


def test_another_column_and_a_limit(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,caption\n1,a cat\n2,\n3,a dog\n4,a fox\n")
    found = read_prompts(path, column="caption", limit=2)
    assert [prompt.text for prompt in found.prompts] == ["a cat", "a dog"]
    assert len(found.broken) == 1


def test_a_repeated_prompt_is_another_row_but_a_repeated_id_is_broken(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a cat"}\n{"prompt": "a cat"}\n')
    assert len(load_prompts(path)) == 2
    path.write_text('{"id": 1, "prompt": "a cat"}\n{"id": 1, "prompt": "a dog"}\n')
    assert len(load_prompts(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "caption\nx\n", "no column 'prompt'; found: caption"),
        ("a.parquet", "not parquet", "cannot read"),
        ("a.jsonl", "{oops\n", "no usable prompt"),
        ("a.txt", "", "no usable prompt"),
        ("a.docx", "x", "expected .jsonl"),
    ],
)
def test_a_file_without_any_prompt_is_an_error_that_names_it(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(MissingInput, match=says) as error:
        load_prompts(path)
    assert name in str(error.value)


def test_an_unknown_set_and_an_unknown_family_are_named():
    with pytest.raises(MissingInput, match="nothing-like-it"):
        load_prompts("nothing-like-it")
    with pytest.raises(UnknownFamily):
        load_prompts("bench", family="sd99")


def test_the_bundled_sets_are_whole_and_disjoint():
    sets = bundled_sets()
    assert {"bench", "freeform", "reference", "train"} <= set(sets)
    texts = {}
    for name in sets:
        found = read_prompts(name)
        assert found.broken == ()
        texts[name] = {prompt.text for prompt in found.prompts}
    for one, other in combinations(texts, 2):
        assert not texts[one] & texts[other], f"{one} and {other} share prompts"
    assert all(prompt.experts and prompt.subject for prompt in load_prompts("bench"))
