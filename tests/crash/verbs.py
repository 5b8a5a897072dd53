"""Which verbs are tried, on what? Each goes on from what the one before it left."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.small_hub import write_hub

CONFIG = "[sampler]\nsteps = 2\n\n[calibration]\nprompts = 2\nshard_size = 1\n"
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
    from flows.train_planner import train

    train(steps=2, prompts=8)


def _refresh(places: Places) -> None:
    from flows.refresh import refresh

    refresh(path=places.given / "hub", reference_prompts=2, steps=1, training_prompts=8)


HOME = ("--home", "{home}")
SHORT = (*HOME, "--config", "{given}/config.toml")

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("discover", _command("discover", "--path", "{given}/hub", *HOME)),
        Verb("build", _command("build", *SHORT), after="discover"),
        Verb("train", _train, after="build"),
        Verb("refresh", _refresh, after="discover"),
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


def run(verb: Verb, places: Places) -> None:
    """Do what a verb does, in this process; its errors end it as they end the command."""
    from diffgraph.errors import DiffgraphError

    os.environ["DIFFGRAPH_HOME"] = str(places.home)
    os.environ["DIFFGRAPH_CONFIG"] = str(places.given / "config.toml")
    try:
        verb.run(places)
    except DiffgraphError as error:
        sys.stderr.write(f"diffgraph: {type(error).__name__}: {error}\n")
        raise SystemExit(1) from error
