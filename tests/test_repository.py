"""What is true of the whole repository, whatever is in it."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("diffgraph", "tasks", "flows", "recipes", "integrations")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
LIMIT_MIB = 48  # of tracked files: the weights must travel with the code


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_torchvision_is_absent_or_works():
    if importlib.util.find_spec("torchvision") is not None:
        importlib.import_module("torchvision")


def test_no_room_without_a_question():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("package", ["diffgraph", "flows"])
def test_every_room_is_in_the_contract(package):
    contracts = settings()["tool"]["importlinter"]["contracts"]
    (rooms,) = (one for one in contracts if one.get("containers") == [package])
    assert rooms["exhaustive"]
    listed = {name.strip(" ()") for layer in rooms["layers"] for name in layer.split(":")}
    found = {
        path.stem
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    }
    assert found == listed


def test_flows_holds_flows():
    """A person who looks for the nightly run sees six files."""
    from prefect import Flow

    files = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert len(files) == 6
    for name in files:
        module = importlib.import_module(f"flows.{name}")
        own = [one for one in vars(module).values() if isinstance(one, Flow)]
        assert [flow for flow in own if flow.fn.__module__ == module.__name__], name


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_every_module_says_which_question_it_answers(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_nothing_that_runs_code_when_it_is_read(path):
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call)]  # fmt: skip
    forbidden = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "eval", "exec",
                 "yaml.load", "np.load", "numpy.load"}  # fmt: skip
    loose = [call for call in calls if call in forbidden]
    if "np.load" in loose or "numpy.load" in loose:
        assert "allow_pickle=True" not in path.read_text()
        loose = [call for call in loose if call not in {"np.load", "numpy.load"}]
    assert not loose


def test_no_file_is_too_long_to_read():
    long = {ids(path): lines for path in MODULES
            if (lines := len(path.read_text().splitlines())) > 400}  # fmt: skip
    assert not long


def test_the_wheel_holds_the_product_and_no_recipe():
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    files = {file.distribution_path for file in wheel.recurse_included_files()}
    assert {path.split("/")[0] for path in files} == {"diffgraph", "tasks", "flows"}
    assert {"flows/cli/__init__.py", "diffgraph/families/emoji64/assets/words.txt"} <= files


def test_no_module_of_the_product_names_a_recipe():
    """Neither in an import nor in a command that it starts or prints."""
    product = [path for path in MODULES if not path.is_relative_to(ROOT / "recipes")]
    named = re.compile(r"\brecipes[./]|\b(?:import|from) recipes\b")
    assert not [ids(path) for path in product if named.search(path.read_text())]


def test_the_core_can_be_imported_without_an_orchestrator():
    code = (
        "import sys\n"
        "for name in ('prefect', 'dask', 'distributed', 'mlflow'): sys.modules[name] = None\n"
        "import diffgraph.families, diffgraph.experts.library, diffgraph.merging.plan\n"
        "import diffgraph.graph.snapshot, diffgraph.planner.selection\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_command_starts_without_heavy_libraries():
    code = (
        "import sys, flows.cli.command\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'diffusers', 'transformers', 'pandas', 'duckdb'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_the_repository_stays_small():
    files = tracked()
    if not files:
        pytest.skip("not a git checkout")
    assert sum(file.stat().st_size for file in files) < LIMIT_MIB * 2**20
    assert not [ids(file) for file in files if file.stat().st_size > 15_000_000]


def test_the_pins_fit_the_ranges():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if "==" in line)
    }
    project = settings()["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        if requirement.name == "torch":
            continue  # stays a range: a CPU or a CUDA build
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} pinned to {version}"


def test_make_tells_what_it_can_do():
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in (
        "setup",
        "demo",
        "test",
        "test-e2e",
        "test-orders",
        "check",
        "lint",
        "format",
        "emoji64",
        "clean",
    ):
        assert re.search(rf"make {target}\b", told)


def test_a_check_runs_every_test():
    """Each folder of tests is one that a target of the check names or does not leave out."""
    told = subprocess.run(
        ["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    runs = [line for line in told.splitlines() if "pytest" in line]
    left_out = {part for line in runs for part in re.findall(r"--ignore=(\S+)", line)}
    assert left_out
    for folder in left_out:
        assert any(line.endswith(f" {folder}") for line in runs), folder


def test_ci_runs_the_check():
    script = ROOT / ".ci" / "run"
    assert "make check" in script.read_text()
    assert script.stat().st_mode & 0o111
