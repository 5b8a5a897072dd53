"""Is what a verb left the same as what it leaves undisturbed? All but the time must be."""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

from diffgraph.artifacts import sha256_of

TIMES = ("created_at", "seconds", "written_at", "started_at", "images_per_second")
"""What tells when something was made, or how long it took; nothing else may differ."""

RECORDS = ("prefect/", "mlflow.db", "mlartifacts/", "server.log")
"""What others keep of the runs themselves: there were more runs after a kill."""


def contents(folder: Path) -> Mapping[str, str]:
    """Return the hash and permissions of every file below a folder, by its path; folders, too.

    What others keep of the runs is not compared: only that nobody else may read it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = stat.S_IMODE(path.stat().st_mode)
        if any(part in f"{name}/" for part in RECORDS):
            if mode & 0o077:
                found[name] = f"open to others: {mode:o}"
        elif path.is_file():
            found[name] = f"{hashlib.sha256(_without_times(path)).hexdigest()} {mode:o}"
        else:
            found[f"{name}/"] = f"a folder {mode:o}"
    return found


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return what is missing, too much or different, a line each."""
    told = [f"missing: {name}" for name in expected.keys() - found.keys()]
    told += [f"left over: {name}" for name in found.keys() - expected.keys()]
    told += [
        f"different: {name}" for name in expected if found.get(name, "") not in ("", expected[name])
    ]
    return sorted(told)


def _without_times(path: Path) -> bytes:
    if path.name == "manifest.sha256":  # of a file that tells when it was made
        return str(path.read_text() == sha256_of(path.with_suffix(".json"))).encode()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_bytes())), sort_keys=True).encode()
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        kept = [name for name in table.column_names if name not in TIMES]
        return repr(table.select(kept).to_pylist()).encode()
    return path.read_bytes()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        # the hash of a file that tells the time says nothing that the file itself does not
        return {name: _timeless(inner) for name, inner in value.items() if name not in TIMES}
    if isinstance(value, list):
        return [_timeless(inner) for inner in value]
    return value
