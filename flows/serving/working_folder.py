"""Keeps settings and modules in the working folder, which is untrusted, from taking effect.

A downloaded hub can carry a `.env`, a `prefect.toml`, or a package called `flows`. They would say
where keys are sent and which code runs.
"""

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffgraph.settings import Settings, settings_file

MOST_BYTES = 1 << 16
_NAMES = re.compile(
    r"^[\s\ufeff]*(?:export\s+)?((?:DIFFGRAPH|PREFECT|ANTHROPIC)_[A-Z0-9_]+)\s*=", re.M
)


def keep_out(home: Path) -> None:
    """Let neither this process nor those that it starts take settings or code from where it is."""
    # else Python looks for modules in the current folder first, where `-m` or a spawn starts it
    os.environ["PYTHONSAFEPATH"] = "1"
    prefect = Path(os.environ.get("PREFECT_HOME") or home / "prefect")
    # else Prefect looks for the place of its profiles in `.env` and `prefect.toml`
    os.environ.setdefault("PREFECT_PROFILES_PATH", str(prefect / "profiles.toml"))
    read_no_relative_settings()


@cache
def read_no_relative_settings() -> None:
    """Have settings be read from files only where their address is absolute.

    Prefect looks for `.env`, `prefect.toml` and `pyproject.toml` below the current folder while it
    is imported, and has no switch for that: its readers are told there are none.
    """
    from pydantic_settings import DotEnvSettingsSource
    from pydantic_settings.sources import ConfigFileSourceMixin

    read_file = DotEnvSettingsSource._read_env_file
    existing = ConfigFileSourceMixin._existing_files

    def read_if_absolute(source: Any, path: Path) -> Mapping[str, str | None]:
        return read_file(source, path) if path.is_absolute() else {}

    def existing_if_absolute(files: Any) -> list[Any]:
        return [file for file in existing(files) if Path(str(file)).is_absolute()]

    setattr(DotEnvSettingsSource, read_file.__name__, read_if_absolute)
    setattr(ConfigFileSourceMixin, existing.__name__, staticmethod(existing_if_absolute))


def dask_setup(worker: object) -> None:
    """Do the same in a Dask worker, before it imports Prefect: see `preload` in runners.py."""
    read_no_relative_settings()
    Settings()  # it knows what must be masked, and which folder is private


def ignored() -> Iterator[str]:
    """Yield what this folder would like to decide, a line a file."""
    path, own = Path(".env").absolute(), settings_file()
    names = ", ".join(dict.fromkeys(_NAMES.findall(_text(path))))
    if names and path != own:
        yield (
            f"{path} sets {names}, and is not read: any folder can carry such a file; "
            f"put what is yours into {own}"
        )
    for name, tables in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        path = Path(name).absolute()
        if _table(path, tables):
            yield f"{path} configures Prefect, and is not read; set PREFECT_… variables instead"


def _text(path: Path) -> str:
    """Return the beginning of a file; nothing if it is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _table(path: Path, names: tuple[str, ...]) -> Any:
    """Return a table of a TOML file, if it is there; True for a file that cannot be understood."""
    text = _text(path)
    try:
        found: Any = tomllib.loads(text)
    except (ValueError, RecursionError):
        return not names and bool(text.strip())
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
