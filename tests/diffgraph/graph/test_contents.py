"""A snapshot's id depends on what it says, and not on how its tables are read."""

import hashlib
import json

import pyarrow as pa
import pytest

from diffgraph.families.family import SamplerConfig
from diffgraph.graph import contents
from diffgraph.graph.contents import content_id
from diffgraph.graph.schema import SCHEMA_VERSION

TABLE = pa.table(
    {
        "name": ["ä", 'b"', "c\n", "d", "e"],
        "words": [["one"], [], ["two", "three"], None, ["🦊"]],
        "number": [1.5, 2.5, 0.0, -1.0, 3.0],
    }
)
SAMPLER = SamplerConfig(steps=3)


@pytest.mark.parametrize("rows", [1, 2, 5, 500])
def test_large_tables_are_hashed_in_parts_as_they_are_whole(rows, monkeypatch):
    monkeypatch.setattr(contents, "JSON_ROWS", rows)
    whole = hashlib.sha256()
    whole.update(json.dumps([SCHEMA_VERSION, "emoji64", SAMPLER.model_dump(), "s"]).encode())
    whole.update(b"\nnodes.name\n" + json.dumps(TABLE["name"].to_pylist()).encode())
    whole.update(b"\nnodes.words\n" + json.dumps(TABLE["words"].to_pylist()).encode())
    whole.update(b"\nnodes.number\n" + TABLE["number"].to_numpy().tobytes())
    assert content_id("emoji64", {"nodes": TABLE}, SAMPLER, "s") == whole.hexdigest()[:16]


def test_an_empty_table_has_an_id():
    assert len(content_id("emoji64", {"nodes": TABLE.slice(0, 0)}, SAMPLER, "s")) == 16
