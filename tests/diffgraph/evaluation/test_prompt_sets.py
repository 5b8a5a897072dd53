import json
import logging
import os
import re
from itertools import combinations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffgraph.errors import InputError, MissingInput, UnknownFamily
from diffgraph.evaluation.prompt_sets import (
    LONGEST_PROMPT,
    bundled_sets,
    load_prompts,
    read_parquet,
    read_prompts,
)
from diffgraph.foreign_tables import LONGEST_CELL

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


def texts_of(path):
    return [prompt.text for prompt in read_prompts(path).prompts]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("x" * 200_000, "more than"),
        ('"' + "x" * 200_000 + '"', "more than"),
        ('"' + "x\n" * 100_000 + '"', "more than|quote"),
        ('"never closed', "quote"),
        ("a\0b", "no letter"),
        ("a fox, with a comma", "comma"),
        ('""', "empty"),
    ],
)
def test_a_broken_record_of_a_table_costs_itself_only(tmp_path, broken, reason):
    path = tmp_path / "a.csv"
    path.write_text(f"prompt\na cat\n{broken}\na dog\na bird\n", newline="")
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts if "x" not in prompt.text] == [
        "a cat",
        "a dog",
        "a bird",
    ]
    assert any(re.search(reason, row.reason) for row in found.broken)


def test_quotes_and_lines_within_cells_are_read_as_others_write_them(tmp_path):
    path = tmp_path / "a.csv"
    text = 'n,prompt\r\n1,"a cat,\r\nsepia"\r\n2,a 5" dog\r\n3,"a ""big"" bird"\r\n'
    path.write_text(text, newline="")
    assert texts_of(path) == ["a cat, sepia", 'a 5" dog', 'a "big" bird']


@pytest.mark.parametrize("ending", ["csv", "jsonl", "txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_text_that_says_its_encoding_is_read(tmp_path, ending, encoding):
    path = tmp_path / f"a.{ending}"
    rows = {"csv": "prompt\na café\n", "jsonl": '{"prompt": "a café"}\n', "txt": "a café\n"}
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path.write_bytes((mark + rows[ending]).encode(encoding))
    assert texts_of(path) == ["a café"]


def test_latin_1_costs_its_own_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt\na cat\na caf\xe9\na dog\n")
    assert texts_of(path) == ["a cat", "a dog"]


def test_a_parquet_row_that_is_no_text_costs_itself_only(tmp_path):
    path = tmp_path / "a.parquet"
    column = pa.array([b"a cat", b"caf\xe9", b"a dog"]).view(pa.string())
    pq.write_table(pa.table({"prompt": column}), path)
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts] == ["a cat", "a dog"]
    assert [row.row for row in found.broken] == [2]


@pytest.mark.parametrize("place", ["s3://bucket/p.csv", "https://x.example/p.csv", "gs:/b/p.csv"])
def test_an_address_is_said_not_to_be_read(place):
    from pathlib import Path

    for given in (place, Path(place)):
        with pytest.raises(InputError, match="on this machine only") as error:
            read_prompts(given)
        assert "://" in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_line_without_end_costs_itself_and_no_memory(tmp_path, name):
    rows = {
        "a.txt": ["a cat", "x" * (3 << 20), "a dog"],
        "a.jsonl": [
            '{"prompt": "a cat"}',
            '{"prompt": "%s"}' % ("x" * (3 << 20)),
            '{"prompt": "a dog"}',
        ],
        "a.csv": ["prompt", "a cat", '"%s"' % ("x" * (3 << 20)), '"a dog"'],
    }[name]
    path = tmp_path / name
    path.write_text("\n".join(rows))
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts] == ["a cat", "a dog"]
    (broken,) = found.broken
    assert broken.row == 2
    assert len(broken.reason) < 200


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_hole_is_no_file_of_prompts(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.truncate(path, 8 << 30)
    with pytest.raises(MissingInput, match=rf"{name}.*a line of more than"):
        read_prompts(path)


def test_letters_that_join_others_are_text_and_control_characters_are_not(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ["a 👨\u200d👩\u200d👧 at home", "soft\u00adhyphen", "a\0b", "a\x1b[2Jb"]
    path.write_text("\n".join(json.dumps({"prompt": row}) for row in rows))
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts] == rows[:2]
    assert [row.reason for row in found.broken] == [
        "holds U+0000, which is no letter",
        "holds U+001B, which is no letter",
    ]


def test_what_is_told_of_a_file_is_short_whatever_it_says(tmp_path):
    path = tmp_path / "a.jsonl"
    row = json.dumps({"prompt": "a cat", "id": "x" * 100_000})
    path.write_text(f'{row}\n{row}\n{{"prompt": "a dog"}}')
    assert [len(row.reason) < 200 for row in read_prompts(path).broken] == [True, True]
    path = tmp_path / "a.csv"
    path.write_text("y" * 100_000 + "\na cat\n")
    with pytest.raises(MissingInput) as told:
        read_prompts(path)
    assert len(str(told.value)) < 1_000


def test_a_small_table_that_stands_for_gigabytes_fills_no_memory(tmp_path):
    """Eight kilobytes: one text of two million letters, and a thousand rows that refer to it."""
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0, *[1] * 1000, 0], pa.int32()), pa.array(["a cat", "a dog " * 333_333])
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": texts}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 8_000
    before = pa.total_allocated_bytes()
    most = 0
    for row in read_parquet(path, "prompt"):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(row["prompt"]) <= LONGEST_CELL
    assert most < 64 << 20
    found = read_prompts(path)
    assert [prompt.text for prompt in found.prompts] == ["a cat", "a cat"]
    assert {row.reason for row in found.broken} == {f"more than {LONGEST_PROMPT} characters"}


def test_a_table_whose_pages_inflate_without_measure_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    rows = ["a cat " * 1_000_000 + str(number) for number in range(12)]
    pq.write_table(pa.table({"prompt": rows}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(MissingInput, match=r"a\.parquet.*'prompt' stand for"):
        read_prompts(path)
