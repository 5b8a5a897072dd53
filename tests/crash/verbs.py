"""Which verbs are tried, on what? Each goes on from what the one before it left."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.small_hub import write_hub

CONFIG = """
[sampler]
steps = 2

[calibration]
prompts = 2
shard_size = 1

[training]
prompts = 2

[search]
samples = 2
"""
PROMPTS = ("a cat, pencil sketch", "a robot at night", "a fox, sepia")


@dataclass(frozen=True)
class Places:
    """Where a verb finds what it is given, and where it writes."""

    given: Path
    home: Path
    out: Path


@dataclass(frozen=True)
class Verb:
    """Something that a person starts, what it needs done before, and how it is done."""

    name: str
    run: Callable[[Places], None]
    after: str = ""
    """The verb whose home it begins with; empty: none is there yet."""


def _command(*arguments: str) -> Callable[[Places], None]:
    def run(places: Places) -> None:
        from flows.cli import main

        fields = {name: str(getattr(places, name)) for name in ("given", "home", "out")}
        sys.argv = ["diffgraph", *(argument.format(**fields) for argument in arguments)]
        main()

    return run


def _train(places: Places) -> None:
    """Train as the command does, on few prompts: it has no option for that."""
    from flows.cli.starting import pipeline, settings_of
    from flows.train_planner import train

    with pipeline(settings_of(places.home)):
        train(steps=1, prompts=24)


def _refresh(places: Places) -> None:
    from flows.cli.starting import pipeline, settings_of
    from flows.refresh import refresh

    with pipeline(settings_of(places.home)):
        refresh(path=places.given / "hub", reference_prompts=2, steps=1, training_prompts=24)


def _record(places: Places) -> None:
    """Record a first run: MLflow makes its database, in thousands of changes."""
    from flows.cli.starting import settings_of
    from tasks.tracking import deliver
    from tasks.tracking.database import address_of
    from tasks.tracking.unsent import Record, keep, waiting

    settings_of(places.home)
    keep(places.home, Record(experiment="train", params={"steps": "1"}))
    for kept in waiting(places.home):
        deliver(places.home, address_of(places.home), kept)


HOME = ("--home", "{home}")
SHORT = (*HOME, "--config", "{given}/config.toml")

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("discover", _command("discover", "--path", "{given}/hub", *HOME)),
        Verb("record", _record, after="discover"),
        Verb("build", _command("build", *SHORT), after="record"),
        Verb("train", _train, after="build"),
        Verb("refresh", _refresh, after="record"),
        Verb(
            "remove",
            _command("remove", "smallhub:9001@90011", "--reason", "its maker asked", *HOME),
            after="build",
        ),
        Verb("clean", _command("clean", "graphs", "planners", "--yes", *HOME), after="train"),
        Verb(
            "evaluate",
            _command("evaluate", "--methods", "base,uniform", "--limit", "2", *SHORT),
            after="build",
        ),
        Verb(
            "batch",
            _command(
                "batch", "{given}/prompts.txt", "--out", "{out}", "--method", "uniform", *SHORT
            ),
            after="build",
        ),
        Verb(
            "generate",
            _command("generate", *PROMPTS[:2], "--out", "{out}", "--method", "uniform", *SHORT),
            after="build",
        ),
        Verb(
            "merge",
            _command(
                "merge", "{given}/plan.json", "--out", "{out}/merged.safetensors", "--force", *HOME
            ),
            after="build",
        ),
    )
}


def write_given(folder: Path) -> None:
    """Write what all verbs are given: a hub, prompts, a plan, a configuration."""
    write_hub(folder / "hub")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "config.toml").write_text(CONFIG)
    experts = [
        {"ref": f"smallhub:{number}@{number}1", "kind": "peft", "coefficient": 0.8}
        for number in (9001, 9002)
    ]
    (folder / "plan.json").write_text(json.dumps({"family": "emoji64", "experts": experts}))


def environment_of(places: Places, has_server: bool = False, is_spread: bool = False) -> None:
    """Set this process's environment for a verb.

    Args:
        places: where it works.
        has_server: it starts a Prefect server of its own, instead of reporting to the bench's.
        is_spread: its tasks run on processes of Dask.
    """
    os.environ["DIFFGRAPH_HOME"] = str(places.home)
    os.environ["DIFFGRAPH_CONFIG"] = str(places.given / "config.toml")
    if has_server:
        del os.environ["PREFECT_API_URL"]
    if is_spread:
        os.environ |= {"DIFFGRAPH_SCHEDULER": "local", "DIFFGRAPH_WORKERS": "2"}


def run(verb: Verb, places: Places) -> None:
    """Do what a verb does, in this process; its errors end it as they end the command."""
    from typer import Exit

    from flows.cli.command import errors_printed

    try:
        with errors_printed():
            verb.run(places)
    except Exit as ended:
        raise SystemExit(ended.exit_code) from ended
