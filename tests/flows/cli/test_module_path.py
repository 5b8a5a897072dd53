"""PYTHONPATH=. makes any folder a place of modules: the command imports none of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.module_path import leave_out_the_working_folder

ROOT = str(Path(__file__).parents[3])
CODE = """
import os, sys
from flows.cli.module_path import leave_out_the_working_folder
leave_out_the_working_folder()
import json, pathlib
print(json.dumps([os.environ.get("PYTHONPATH"), sys.path]))
"""


@pytest.mark.parametrize("named", [".", "", f".{os.pathsep}./", "sub/.."])
def test_modules_of_the_working_folder_are_not_imported(tmp_path, named):
    for name in ("json", "pathlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger runs')")
    (tmp_path / "sub").mkdir()
    named = f"{named}{os.pathsep}{ROOT}"  # what is named by its whole name stays
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": named},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept, path = json.loads(done.stdout)
    assert kept == ROOT
    assert str(tmp_path) not in path
    assert ROOT in path


def test_a_checkout_that_is_used_in_its_folder_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [ROOT, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((".", os.path.relpath(tmp_path))))
    leave_out_the_working_folder()
    assert (os.environ["PYTHONPATH"], sys.path) == (ROOT, [ROOT])


def test_nothing_is_left_of_a_path_of_working_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere", str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", ".")
    leave_out_the_working_folder()
    assert ("PYTHONPATH" in os.environ, sys.path) == (False, ["/elsewhere"])
