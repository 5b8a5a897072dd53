"""Is what a verb left the same as what it leaves undisturbed? All but the time must be."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

TIMES = ("created_at", "seconds", "written_at", "started_at", "images_per_second")
"""What tells when something was made, or how long it took; nothing else may differ."""

RECORDS = ("prefect/", "mlflow.db", "mlartifacts/", "server.log")
"""What others keep of the runs themselves: there were more runs after a kill."""


def contents(folder: Path) -> Mapping[str, str]:
    """Return the hash of every file below a folder, by its path; empty folders by theirs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if any(part in f"{name}/" for part in RECORDS):
            continue
        if path.is_file():
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
        elif not any(path.iterdir()):
            found[f"{name}/"] = "an empty folder"
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
