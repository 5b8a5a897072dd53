"""The command works in any folder, with a server of its own, and heeds nothing that is in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("flows", "tasks", "diffgraph", "multiprocessing", "types", "json", "logging", "torch",
           "numpy", "prefect", "distributed", "dask", "uvicorn", "sqlite3")  # fmt: skip
SETTINGS = """
DIFFGRAPH_HOME=stolen
DIFFGRAPH_SCHEDULER=tcp://127.0.0.1:1
PREFECT_API_URL=http://127.0.0.1:1/api
PREFECT_SERVER_DATABASE_CONNECTION_URL=nonsense
PREFECT_LOGGING_SETTINGS_PATH=logging.yml
"""


def strangers_folder(folder: Path) -> Path:
    """Fill a folder with packages and modules of well-known names, and settings of all kinds."""
    for name in MODULES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            "import pathlib; pathlib.Path(__file__).with_name('ran').touch(); raise SystemExit(9)"
        )
    (folder / ".env").write_text(SETTINGS)
    (folder / "logging.yml").write_text("is no logging configuration")
    (folder / "prefect.toml").write_text("is no TOML [")
    (folder / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://127.0.0.1:1/api"')
    return folder


@pytest.mark.parametrize("python", [{}, {"PYTHONPATH": "."}], ids=["", "PYTHONPATH"])
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["here", "by Dask"])
def test_a_batch_is_drawn_in_a_folder_full_of_strangers_code(tmp_path, workers, python):
    here = strangers_folder(tmp_path / "downloaded")
    if python:  # then Python itself takes `flows` from there, before a line of ours runs
        shutil.rmtree(here / "flows")
    (here / "prompts.txt").write_text("a cat\na dog\n")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DIFFGRAPH_"))}
    command = Path(sys.executable).with_name("diffgraph")
    home = tmp_path / "home"
    done = subprocess.run(
        [command, "batch", "prompts.txt", "--out", "out", "--method", "base",
         "--home", home, *workers],
        cwd=here, env={**kept, "HOME": str(tmp_path), **python},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stdout
    assert len(list((here / "out").rglob("*.png"))) == 2
    assert list(here.rglob("ran")) == []
    assert not (here / "stolen").exists()
    for name in (".env", "prefect.toml", "pyproject.toml"):
        assert str(here / name) in done.stderr
    readable = [path for path in (home, *home.rglob("*")) if path.lstat().st_mode & 0o077]
    assert readable == []


def test_the_lines_of_the_readme_draw_in_an_empty_folder_with_an_empty_home(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    *before, last = readme.split("```python\n")[1].split("```")[0].splitlines()
    code = "\n".join([*before, f"print(({last}).size)"])
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DIFFGRAPH_"))}
    command, env = [sys.executable, "-c", code], {**kept, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "(64, 64)\n"), done.stderr
    assert not (tmp_path / ".local").exists()
