"""Do the documents say what is true? Blocks that are made from the code are compared with it.

`DIFFGRAPH_WRITE_DOCS=1 python -m pytest tests/test_docs.py` writes those blocks anew.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main

ROOT = Path(__file__).parent.parent
OPERATIONS = ROOT / "docs" / "operations.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "figures"
DOCUMENTS = sorted(
    path
    for place in ("*.md", "docs/**/*.md", "infra/**/*.md", "integrations/**/*.md")
    for path in ROOT.glob(place)
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def commands() -> dict[str, Any]:
    from flows.cli.command import app

    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]


def options_of(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield f"`{(parameter.metavar or parameter.name).upper()}`"
        elif parameter.name not in ("help", "json", "home", "family"):  # those of all
            yield f"`{parameter.opts[0]}`"


def verbs() -> str:
    lines = ["| verb | does | takes |", "|---|---|---|"]
    for name, command in commands().items():
        said = " ".join((command.help or "").split("\n\n")[0].split())
        lines.append(f"| `{name}` | {said} | {' '.join(options_of(command))} |")
    return "\n".join(
        [
            *lines,
            "",
            "All take `--json`; all but `demo`, `--home`; what has to do with models, `--family`.",
        ]
    )


def tables() -> str:
    from diffgraph.agents import AGENTS
    from diffgraph.baselines import BASELINES
    from diffgraph.evaluation.methods import METHODS
    from diffgraph.evaluation.prompt_sets import READERS
    from diffgraph.experts.formats import ADAPTERS
    from diffgraph.families import FAMILIES
    from diffgraph.merging.plan import NORMALISATIONS

    found = {
        "families, `FAMILIES`": FAMILIES,
        "adapter formats, `ADAPTERS`": dict.fromkeys(adapter.name for adapter in ADAPTERS),
        "scorers, `scorers` of a `Family`": FAMILIES["emoji64"].scorers,
        "agents, `AGENTS`": AGENTS,
        "baselines, `BASELINES`": BASELINES,
        "methods of an evaluation, `METHODS`": METHODS,
        "normalisations, `NORMALISATIONS`": NORMALISATIONS,
        "prompt files, `READERS`": READERS,
    }
    rows = (
        f"| {name} | {', '.join(f'`{entry}`' for entry in entries)} |"
        for name, entries in found.items()
    )
    return "\n".join(["| table | entries |", "|---|---|", *rows])


def configs() -> str:
    from diffgraph.session.overrides import configs as known
    from diffgraph.session.overrides import keys_of

    rows = (
        f"| `[{name}]` | {', '.join(f'`{key}`' for key in keys_of(config))} |"
        for name, config in known().items()
    )
    return "\n".join(["| table | keys |", "|---|---|", *rows])


def speed() -> str:
    """What `tests/benchmarks/*.py` printed, kept in docs/figures."""
    lines = []
    for path in sorted(FIGURES.glob("speed-*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        machine = told.pop("machine")
        where = machine["gpu"] or f"{machine['cores']} CPU cores"
        lines += [f"**{told.pop('benchmark')}**, {where}", "", "| figure | value |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in flat(told)]
        lines.append("")
    return "\n".join(lines).strip()


def flat(told: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}, ")
        else:
            yield before + name, value


def methods() -> str:
    """What `diffgraph evaluate` found, kept in docs/figures."""
    from diffgraph.evaluation.report import METHOD_NOTES, METHOD_TITLES
    from diffgraph.evaluation.statistics import Interval, Summary

    path = FIGURES / "bench.json"
    if not path.is_file():
        return ""
    summary = Summary.model_validate_json(path.read_text(encoding="utf-8"))

    def told(interval: Interval) -> str:
        return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"

    lines = [
        f"{summary.methods[0].prompts} prompts, {summary.seeds} seeds each.",
        "",
        f"| method | what it does | mean reward | lead of {METHOD_TITLES[summary.reference]} |",
        "|---|---|---|---|",
    ]
    for row in summary.methods:
        lead = told(row.lead["reward"]) if row.lead else ""
        title, note = METHOD_TITLES[row.method], METHOD_NOTES[row.method]
        lines.append(f"| {title} | {note} | {told(row.scores['reward'])} | {lead} |")
    return "\n".join(lines)


def closeness() -> str:
    """What `docs/closeness.py` found, kept in docs/figures."""
    from diffgraph.evaluation.report import METHOD_TITLES

    found = json.loads((FIGURES / "closeness.json").read_text(encoding="utf-8"))

    def told(values: list[float], sign: str) -> str:
        mean, low, high = (format(value, f"{sign}.3f") for value in values)
        return f"{mean} [{low}, {high}]"

    lines = [
        f"{found['prompts']} prompts, one seed.",
        "",
        "| method | closeness to the truth | lead of DiffGraph |",
        "|---|---|---|",
    ]
    for row in found["methods"]:
        lead = told(row["lead"], "+") if row["lead"] else ""
        lines.append(f"| {METHOD_TITLES[row['method']]} | {told(row['closeness'], '')} | {lead} |")
    return "\n".join(lines)


BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "verbs": (OPERATIONS, verbs),
    "tables": (OPERATIONS, tables),
    "configs": (OPERATIONS, configs),
    "speed": (PERFORMANCE, speed),
    "methods": (PERFORMANCE, methods),
    "closeness": (PERFORMANCE, closeness),
}


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- made from [^>]*: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_block_made_from_the_code_is_up_to_date(name):
    document, make = BLOCKS[name]
    text = document.read_text(encoding="utf-8")
    wanted = f"{make()}\n"
    match = block(name).search(text)
    assert match, f"{document.name} has no block {name}"
    if os.environ.get("DIFFGRAPH_WRITE_DOCS"):
        fresh = block(name).sub(lambda found: found[1] + wanted + found[3], text)
        document.write_text(fresh, encoding="utf-8")
    else:
        assert match[2] == wanted, "stale: DIFFGRAPH_WRITE_DOCS=1 pytest tests/test_docs.py"


def test_every_setting_is_documented_with_its_default():
    from diffgraph.settings import Settings

    text = OPERATIONS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(DIFFGRAPH_\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert set(rows) == {f"DIFFGRAPH_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        told = rows[f"DIFFGRAPH_{name.upper()}"].strip("` ")
        if name == "home":
            assert Path(told).expanduser() == field.default
        else:
            default = str(field.default)
            assert told == {"None": "unset", "()": "[]"}.get(default, default), name


def test_every_error_of_an_expert_is_explained():
    from diffgraph import errors

    text = OPERATIONS.read_text(encoding="utf-8")
    kinds = errors.ExpertError.__subclasses__()
    for kind in kinds:
        kinds += kind.__subclasses__()  # what was found is looked at, too
        assert f"| `{kind.__name__}` |" in text


def test_every_verb_has_a_summary_and_every_option_a_help_text():
    for name, command in commands().items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for groups in LINK.findall(text):
        target = next(filter(None, groups))
        if re.match(r"(https?|mailto):", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        found = (path.parent / file) if file else path
        assert found.exists(), f"{path.name} links to {target}, which is not there"
        if anchor and found.suffix == ".md":
            assert anchor in set(anchors(found)), f"{path.name} links to {target}: no such heading"


def anchors(path: Path) -> Iterator[str]:
    for heading in re.findall(
        r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE
    ):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_documents_name_files_that_exist():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:diffgraph|flows|tasks|tests|docs)/[\w/.-]+?/?)`", text):
            assert (ROOT / name).exists(), f"{path.name} names {name}, which is not there"


def test_every_example_in_python_runs(tmp_path, monkeypatch):
    """In order, in an empty folder, with nothing in the home; two steps an image are enough."""
    (tmp_path / "quick.toml").write_text("[sampler]\nsteps = 2\n")
    monkeypatch.setenv("DIFFGRAPH_CONFIG", str(tmp_path / "quick.toml"))
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for number, example in enumerate(PYTHON.findall(text), start=1):
        exec(compile(example, f"example {number}", "exec"), names)
    assert sorted(path.name for path in Path().iterdir()) == [
        "fox",
        "fox-lora.safetensors",
        "fox.png",
        "fox.safetensors",
    ]


def test_every_example_of_drawing_runs(diffgraph, tmp_path, monkeypatch):
    """In order, in an empty folder, as a shell reads them; two steps an image are enough."""
    (tmp_path / "quick.toml").write_text("[sampler]\nsteps = 2\n")
    monkeypatch.setenv("DIFFGRAPH_CONFIG", str(tmp_path / "quick.toml"))
    monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("prompts.txt").write_text("a fox\na cup\n")
    section = OPERATIONS.read_text(encoding="utf-8").partition("### Draw as you want\n")[2]
    lines = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0].splitlines()
    assert len(lines) > 5
    for line in lines:
        command, _, source = line.partition(" < ")
        program, *words = shlex.split(command)
        assert program == "diffgraph"
        with open(source or os.devnull, encoding="utf-8") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            told = diffgraph(*chain(*(sorted(Path().glob(word)) or [word] for word in words)))
        assert (told.code, told.err) == (0, ""), line
    assert len(list(Path("pictures").iterdir())) == 4 + 1 + 1 + 2


def test_the_sizes_that_are_told_are_those_of_the_families():
    from diffgraph.families import FAMILIES

    text = " ".join(OPERATIONS.read_text(encoding="utf-8").split())
    for name, family in FAMILIES.items():
        least, most, step = family.sides[0], family.sides[-1], family.sides.step
        told = rf"{name} (draws sides )?of {least} to {most} (pixels )?in steps of {step}"
        assert re.search(told, text), name


def test_every_decision_is_numbered_in_order():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for number, path in enumerate(sorted((ROOT / "docs" / "decisions").glob("*.md")), start=1):
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. ")


def test_every_make_target_that_a_document_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9]+):", makefile, re.MULTILINE))
    for path in DOCUMENTS:
        named = re.findall(
            r"`make ([a-z0-9]+)`|^make ([a-z0-9]+)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert {next(filter(None, names)) for names in named} <= targets, path.name


def test_every_test_that_the_page_on_security_names_is_there():
    text = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(tests/[^`]+\.py)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
