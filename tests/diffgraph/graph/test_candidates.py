import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraph.errors import InputError, MissingInput
from diffgraph.graph.candidates import GENERAL, identity, stream_candidates, usable

# the columns of DiffusionDB's metadata.parquet
DIFFUSION_DB = pa.schema(
    [
        ("image_name", pa.string()),
        ("prompt", pa.string()),
        ("part_id", pa.uint16()),
        ("seed", pa.uint32()),
        ("step", pa.uint16()),
        ("cfg", pa.float32()),
        ("sampler", pa.uint8()),
        ("width", pa.uint16()),
        ("height", pa.uint16()),
        ("user_name", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("image_nsfw", pa.float32()),
        ("prompt_nsfw", pa.float32()),
    ]
)


def diffusion_db(path, rows):
    columns = {name: [None] * len(rows) for name in DIFFUSION_DB.names}
    columns["prompt"] = [prompt for prompt, _, _ in rows]
    columns["image_nsfw"] = [image for _, image, _ in rows]
    columns["prompt_nsfw"] = [prompt for _, _, prompt in rows]
    pq.write_table(pa.table(columns, schema=DIFFUSION_DB), path)
    return path


def test_reads_lines_and_passes_over_what_is_marked_unsafe(tmp_path):
    path = tmp_path / "reference.jsonl"
    rows = [{"prompt": "a cat", "id": 1}, {"prompt": "x", "prompt_nsfw": 0.9}, {"prompt": "a dog"}]
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert list(stream_candidates(path)) == ["a cat", "a dog"]


def test_reads_the_metadata_of_diffusion_db(tmp_path):
    path = diffusion_db(
        tmp_path / "metadata.parquet",
        [
            ("a lighthouse in the fog", 0.01, 0.02),
            ("blurred", 2.0, 0.01),
            ("unsafe", 0.1, 0.8),
            ("not a number", float("nan"), 0.1),
            (None, 0.1, 0.1),
            ("not marked", None, None),
        ],
    )
    assert list(stream_candidates(path)) == ["a lighthouse in the fog", "not marked"]


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "a"}', '{"prompt": 3}', "null", "[" * 5000])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "reference.jsonl"
    path.write_text(f'{{"prompt": "a cat"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"reference\.jsonl:2"):
        list(stream_candidates(path))


def test_files_that_hold_no_prompts_are_named(tmp_path):
    with pytest.raises(MissingInput, match="nowhere"):
        list(stream_candidates(tmp_path / "nowhere.jsonl"))
    (tmp_path / "a.csv").write_text("prompt\na cat\n")
    with pytest.raises(InputError, match="jsonl"):
        list(stream_candidates(tmp_path / "a.csv"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"b\.parquet"):
        list(stream_candidates(tmp_path / "b.parquet"))
    for table in (pa.table({"text": ["a cat"]}), pa.table({"prompt": [1]})):
        pq.write_table(table, tmp_path / "c.parquet")
        with pytest.raises(InputError, match=r"c\.parquet has no column"):
            list(stream_candidates(tmp_path / "c.parquet"))


def test_each_candidate_is_kept_once_as_it_was_first_written():
    texts, looked_at = usable(["A cat, at night", "a  CAT at night!", "owl", "a dog"])
    assert texts == ["A cat, at night", "a dog"]  # "owl" is too short
    assert looked_at == 4


def test_what_is_excluded_stays_out_however_it_is_written():
    assert usable(["A cat at night", "a dog"], exclude=["a CAT, at night."])[0] == ["a dog"]


def test_community_syntax_and_control_characters_are_taken_off():
    texts, _ = usable(["(a red fox:1.2), <lora:x:1> in snow\x1b[0m", "a\u200b cat\n at night"])
    assert texts == ["a red fox, in snow", "a cat at night"]


def test_of_too_many_the_same_fair_sample_is_kept_in_any_order():
    prompts = [f"a cat with number n{number}" for number in range(5_000)]
    kept, looked_at = usable(iter(prompts * 2), kept=300)
    assert looked_at == 10_000
    assert len(kept) == len({identity(text) for text in kept}) == 300
    assert set(kept) == set(usable(prompts[::-1], kept=300)[0])
    numbers = [int(text.rpartition("n")[2]) for text in kept]
    assert abs(np.mean(numbers) - 2_500) < 4 * 5_000 / np.sqrt(12 * 300)


def test_memory_does_not_grow_with_the_number_of_candidates():
    def peak(count):
        tracemalloc.start()
        usable((f"a cat with number n{number}" for number in range(count)), kept=500)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    # to keep them would take two megabytes more; other threads may take some room meanwhile
    assert peak(20_000) < peak(2_000) + 1_000_000


def test_the_general_candidates_are_many_and_all_usable():
    candidates = list(stream_candidates(GENERAL))
    assert len(usable(candidates)[0]) == len(candidates) >= 500


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=20), st.integers(1, 5))
def test_any_texts_are_candidates_or_not(texts, kept):
    found, looked_at = usable(texts, exclude=texts[:2], kept=kept)
    assert looked_at == len(texts)
    assert len(found) <= kept
    assert not {identity(text) for text in found} & {identity(text) for text in texts[:2]}


def test_half_a_character_is_no_prompt(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a cat"}\n{"prompt": "a cat \\ud83d"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"prompts\.jsonl:2"):
        list(stream_candidates(path))
