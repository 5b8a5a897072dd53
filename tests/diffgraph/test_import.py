"""`import diffgraph`: at once, typed, and of a half-installed package told in a line."""

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import diffgraph

HEAVY = "torch diffusers transformers peft numpy pandas pyarrow duckdb pydantic PIL prefect mlflow"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_loads_nothing_that_is_heavy():
    code = f"import diffgraph, sys; print({HEAVY.split()} & sys.modules.keys())"
    done = python(code.replace("[", "{").replace("]", "}"))
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr


def test_every_public_name_is_there():
    for name in (*diffgraph.__all__, "__version__"):
        assert getattr(diffgraph, name) is not None
        assert name in dir(diffgraph)
    assert diffgraph.InputError is diffgraph.errors.InputError
    assert diffgraph.__version__ == metadata.version("diffgraph")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diffgraph.nothing


@pytest.mark.parametrize("ask", ["open()", "Session"])
def test_a_package_that_is_missing_is_told_in_python(ask):
    code = (
        "import sys; sys.modules['torch'] = None; import diffgraph\n"
        f"try: diffgraph.{ask}\n"
        "except diffgraph.MissingPackage as error: print(error)"
    )
    done = python(code)
    assert done.stdout.startswith("torch is not installed: `python -m pip install diffgraph`")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_package_that_is_missing_is_told_by_the_command():
    code = "import sys; sys.modules['torch'] = None; from flows.cli import main; main()"
    done = python(code, "plan", "a fox")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("diffgraph: torch is not installed: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_missing_of_ours_is_a_bug_and_not_a_package():
    with pytest.raises(ModuleNotFoundError), diffgraph.errors.packages_demanded():
        import_module("diffgraph.nowhere")


def test_a_type_checker_sees_every_public_name():
    """What is imported late is imported for it at the top."""
    package = Path(diffgraph.__file__).parent
    told = ast.parse((package / "__init__.py").read_text()).body
    (block,) = [one for one in told if isinstance(one, ast.If)]
    seen = {
        name.name for one in block.body if isinstance(one, ast.ImportFrom) for name in one.names
    }
    seen |= {one.name for one in told if isinstance(one, ast.FunctionDef)}
    assert set(diffgraph.__all__) <= seen
    assert (package / "py.typed").is_file()
