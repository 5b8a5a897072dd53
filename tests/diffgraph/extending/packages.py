"""Packages of somebody else's, written from the blocks of a page of the documents."""

import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from diffgraph.extensions import look_again

DOCS = Path(__file__).parents[3] / "docs"
BLOCK = re.compile(r"^ *```(?:python|toml)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

Install = Callable[[Mapping[str, str]], Path]


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page tells to write: each block begins with its file's name."""
    found = {}
    for block in map(dedent, BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))):
        name, _, text = block.partition("\n")
        found[name.removeprefix("# ")] = text
    return found


def registered(package: str, group: str, **entries: str) -> str:
    """Return the pyproject.toml of a package that adds to one group."""
    lines = [f'{name} = "{value}"' for name, value in entries.items()]
    head = f'[project]\nname = "{package}"\nversion = "1.0"\n[project.entry-points."{group}"]\n'
    return head + "\n".join(lines)


def write_package(site: Path, files: Mapping[str, str]) -> Path:
    """Lay a package out as an installer does: its modules, and what is known of it beside them."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    for name, text in files.items():
        if name.endswith(".py"):
            (site / name).write_text(text)
    return site


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages for this process, and uninstall them afterwards."""
    site = tmp_path / "site"
    before = set(sys.modules)

    def run(files: Mapping[str, str]) -> Path:
        write_package(site, files)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        look_again()
        return site

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(site)):
            del sys.modules[name]
    monkeypatch.undo()
    look_again()
