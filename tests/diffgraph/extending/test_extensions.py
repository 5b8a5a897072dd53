"""A package of somebody else's is found, told and left out by name; the rest goes on."""

import subprocess
import sys

import pytest

from diffgraph.baselines import BASELINES
from diffgraph.errors import InputError
from diffgraph.experts.formats import FORMATS
from diffgraph.extensions import Extensible
from diffgraph.scoring import SCORERS, scorers_of
from diffgraph.session import check_method
from diffgraph.session.hubs import HUBS, hub_of
from tests.diffgraph.extending.packages import Install, files_of, registered
from tests.environment import environment

PLAN = (
    "class Own:\n    name = {name!r}\n    def plan(self, selection, snapshot): ...\nOWN = Own()\n"
)
SCORER = """
from diffgraph.families.scorer import FamilyScorer
OWN = FamilyScorer("Own", load=lambda device: None, identity=lambda: "1", families={families})
NAMELESS = FamilyScorer("Own", load=lambda device: None)
UNLOADED = FamilyScorer("Own", identity=lambda: "1")
"""


def test_a_page_s_package_is_found_under_its_name(install: Install) -> None:
    assert "trimmed" not in BASELINES
    install(files_of("adding-a-baseline.md"))
    assert BASELINES["trimmed"].name == "trimmed"
    assert list(BASELINES)[:2] == ["base", "single"]
    assert list(BASELINES)[-1] == "trimmed"
    (found,) = BASELINES.extensions()
    assert found.package == "diffgraph-trimmed 1.0"


def test_nothing_is_loaded_before_it_is_looked_up(install: Install) -> None:
    install(
        {
            "pyproject.toml": registered("lazy", "diffgraph.baselines", own="lazy_own:OWN"),
            "lazy_own.py": PLAN.format(name="own"),
        }
    )
    assert BASELINES["base"].name == "base"
    check_method("diffgraph")
    check_method("uniform")
    assert "lazy_own" not in sys.modules
    assert "own" in BASELINES
    assert "lazy_own" in sys.modules


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('a\\x1b[31mb\\nc')", "ValueError: a [31mb c"),
        ("def", "SyntaxError: "),
        ("OTHER = 1", "AttributeError: "),
        ("OWN = 1", "an object with `name` and `plan(selection, snapshot)` is wanted"),
        (PLAN.format(name="x") + "OWN = Own", "an object with `name` and `plan("),
        (PLAN.format(name="another"), "it calls itself 'another'"),
    ],
)
def test_one_that_is_broken_is_told_in_a_line_and_the_rest_goes_on(
    install: Install, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    install(
        {
            "pyproject.toml": registered("torn", "diffgraph.baselines", own="torn_own:OWN"),
            "torn_own.py": text,
        }
    )
    install(files_of("adding-a-baseline.md"))
    assert "own" not in BASELINES
    assert "trimmed" in BASELINES
    assert len(BASELINES) == len(BASELINES.built_in) + 1
    (line,) = caplog.messages
    assert line.startswith("own of torn 1.0 is left out of the baselines: ")
    assert why in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        (BASELINES, "uniform", PLAN.format(name="uniform")),
        (BASELINES, "best_single", PLAN.format(name="best_single")),
        (BASELINES, "diffgraph", PLAN.format(name="diffgraph")),
        (FORMATS, "lora", "OWN = 1"),
        (HUBS, "civitai", "OWN = print"),
        (HUBS, "folder", "OWN = print"),
        (SCORERS, "clip_score", SCORER.format(families=())),
        (SCORERS, "hps", SCORER.format(families=("emoji64",))),
        (SCORERS, "reward", SCORER.format(families=())),
    ],
)
def test_one_that_takes_a_name_of_ours_is_refused_by_name(
    install: Install, caplog: pytest.LogCaptureFixture, table: Extensible, name: str, text: str
) -> None:
    group = f"diffgraph.{table.group}"
    install({"pyproject.toml": registered("bold", group, **{name: "bold:OWN"}), "bold.py": text})
    assert not table.added
    (line,) = caplog.messages
    assert line.startswith(f"{name} of bold 1.0 is left out of the {table.group}: ")
    assert "name" in line


@pytest.mark.parametrize("name", ["Own", "a b", "x" * 41, "1st"])
def test_a_name_that_no_column_or_reference_can_bear_is_refused(
    install: Install, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    install({"pyproject.toml": registered("odd", "diffgraph.hubs") + f'\n"{name}" = "os:getcwd"'})
    assert not HUBS.added
    assert "lower-case letters" in caplog.messages[0]


def test_the_second_package_of_one_name_is_refused(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("one", "two"):
        install(
            {
                "pyproject.toml": registered(
                    package, "diffgraph.baselines", own=f"{package}_x:OWN"
                ),
                f"{package}_x.py": PLAN.format(name="own"),
            }
        )
    assert BASELINES["own"].__module__ == "one_x"
    assert caplog.messages == [
        "own of two 1.0 is left out of the baselines: one 1.0 adds that name too"
    ]


def test_a_scorer_rates_the_families_it_names(install: Install) -> None:
    install(
        {
            "pyproject.toml": registered("r", "diffgraph.scorers", own="r_x:OWN", hps="r_y:OWN"),
            "r_x.py": SCORER.format(families=("emoji64",)),
            "r_y.py": SCORER.format(families=("sd15",)),
        }
    )
    assert tuple(scorers_of("emoji64"))[-1] == "own"
    assert scorers_of("emoji64")["hps"].title == "HPS"
    assert scorers_of("sd15")["hps"].title == "Own"  # nothing here computes it
    assert "own" not in scorers_of("sd15")


@pytest.mark.parametrize(("value", "why"), [("NAMELESS", "identity"), ("UNLOADED", "`load`")])
def test_a_scorer_that_could_not_be_told_from_others_is_refused(
    install: Install, caplog: pytest.LogCaptureFixture, value: str, why: str
) -> None:
    install(
        {
            "pyproject.toml": registered("n", "diffgraph.scorers", own=f"n_x:{value}"),
            "n_x.py": SCORER.format(families=()),
        }
    )
    assert "own" not in scorers_of("emoji64")
    assert why in caplog.messages[0]


def test_a_kind_of_hub_that_nobody_knows_is_refused_with_those_there_are(install: Install) -> None:
    install(files_of("adding-a-hub.md"))
    with pytest.raises(InputError, match="there is folder, civitai, huggingface, shelf"):
        hub_of("attic", None, None, "emoji64")


def test_a_new_process_sees_it_and_the_doctor_names_it(install: Install, diffgraph: object) -> None:
    """Workers are such processes: they look for packages where this one does."""
    site = install(files_of("adding-a-baseline.md"))
    install(
        {
            "pyproject.toml": registered("torn", "diffgraph.hubs", attic="torn_attic:OWN"),
            "torn_attic.py": "1 / 0",
        }
    )
    code = (
        "from flows.cli.doctor import LOOKS; from diffgraph.settings import Settings;"
        "print(*LOOKS['extensions'](Settings()), sep='\\n')"
    )
    with environment(PYTHONPATH=str(site)):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    status, found, broken = done.stdout.strip().splitlines()
    assert (status, found) == ("problem", "trimmed of diffgraph-trimmed 1.0")
    assert broken == "attic of torn 1.0: ZeroDivisionError: division by zero"
