"""Files of a home that a disk, a crash or a person has damaged."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from diffgraph.errors import DiffgraphError, SnapshotError
from diffgraph.experts.line_store import LineStore
from diffgraph.families.family import SamplerConfig
from diffgraph.graph.snapshot import open_snapshot, write_snapshot
from tests.diffgraph.conftest import make_nodes, make_prompts, make_scores
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import changed, mangled, to_json

TABLES = ("nodes", "prompts", "scores")


@cache
def _home() -> Path:
    """A home with a graph of six experts, made once a process."""
    home = Path(tempfile.mkdtemp(prefix="diffgraph-fuzz-"))
    nodes, prompts = make_nodes(), make_prompts()
    scores = make_scores([node.expert.ref for node in nodes], prompts)
    write_snapshot(home, "emoji64", nodes, prompts, scores, SamplerConfig(), "fuzz")
    return home


def _file(name: str) -> bytes:
    (folder,) = (path.parent for path in _home().glob("snapshots/*/manifest.json"))
    return (folder / name).read_bytes()


@st.composite
def _snapshots(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(["manifest.json", *(f"{table}.parquet" for table in TABLES)]))
    if name == "manifest.json" and draw(st.booleans()):
        return name, draw(changed(json.loads(_file(name))).map(to_json))
    return name, draw(mangled(_file(name)))


snapshots = st.deferred(_snapshots)
"""A file of a snapshot, with what stands in it now."""


def whole_or_refused(damage: tuple[str, bytes], folder: Path) -> None:
    """A snapshot opens as the one it says it is; or it is refused."""
    name, data = damage
    home = folder / "home"
    shutil.copytree(_home(), home)
    whole = open_snapshot(_home())
    (home / "snapshots" / whole.id / name).write_bytes(data)
    try:
        found = open_snapshot(home)
        tables = {table: getattr(found, table) for table in TABLES}
    except SnapshotError as error:
        demand_a_line(error)
        return
    assert found.id == whole.id
    for table, rows in tables.items():
        assert rows.equals(getattr(whole, table)), "another graph under the same id"
    assert found.manifest.family == whole.manifest.family
    assert found.manifest.reward == whole.manifest.reward


KEYS = tuple(f"{number:064x}" for number in range(1, 6))
LINES = b"".join(b'{"key":"%s","value":{"n":%d}}\n' % (key.encode(), 7) for key in KEYS)

line_files = mangled(LINES)
"""Files of lines with a few places damaged."""


def other_lines_are_read(data: bytes, folder: Path) -> None:
    """Lines that are whole are read whatever stands beside them, and new ones can be added."""
    path = folder / "cards.jsonl"
    path.write_bytes(data)
    store = LineStore(path)
    whole = set(LINES.splitlines())
    for key in KEYS:
        lines = [line for line in data.split(b"\n")[:-1] if key.encode() in line]
        if lines and lines[-1] in whole:  # the last of a key's lines is the one that counts
            assert json.loads(store.get(key) or b"null") == {"n": 7}, "a whole line is not found"
    new = "f" * 64
    try:
        store.add([(new, '{"n": 8}')])
    except DiffgraphError as error:
        demand_a_line(error)
        return
    assert json.loads(store.get(new) or b"null") == {"n": 8}
