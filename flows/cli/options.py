"""What can be said to several verbs of the command, and how it is explained."""

import re
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from diffgraph.errors import InputError
from flows.serving.parameter_types import LARGEST_SEED

MOST_IMAGES = 1000
"""Images of one prompt; every one is kept in memory until it is written."""


SIZE = re.compile(r"(\d{1,6})(?:[xX](\d{1,6}))?", re.ASCII)
LONGEST_SHOWN = 40


class AgentName(StrEnum):
    """Who reads pages and prompts."""

    OFFLINE = "offline"
    CLAUDE = "claude"


Home = Annotated[
    Path | None, typer.Option("--home", help="Where everything is kept.", envvar="DIFFGRAPH_HOME")
]
Family = Annotated[str | None, typer.Option("--family", help="The model family, e.g. emoji64.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Agent = Annotated[
    AgentName | None,
    typer.Option("--agent", help="Who reads pages and prompts; a language model costs money."),
]
Gpus = Annotated[str | None, typer.Option(help="GPUs to share the work between, e.g. 0,1.")]
Scheduler = Annotated[
    str | None, typer.Option(help="A Dask scheduler, tcp://…, or `local` for a cluster of our own.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes of a local cluster.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="A TOML file that changes how things are done."),
]
Candidates = Annotated[
    Path | None, typer.Option(help="Choose reference prompts from this .jsonl or .parquet file.")
]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(help="A file of prompts to train or test on: never reference prompts."),
]
Like = Annotated[
    str | None, typer.Option(help="Train as this planner was trained: its id, or shipped.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
Prompts = Annotated[
    list[str],
    typer.Argument(
        metavar="PROMPT…", help="What to draw; - for the lines of standard input, a prompt each."
    ),
]
SEED = typer.Option(
    min=0, max=LARGEST_SEED, help="Of every random choice, noise included; 0 if unset."
)
Seed = Annotated[int, SEED]
Count = Annotated[
    int,
    typer.Option(
        "--count", "-n", min=1, max=MOST_IMAGES, help="Images a prompt, each of the next seed."
    ),
]
Experts = Annotated[
    list[str] | None,
    typer.Option(
        "--expert",
        metavar="NAME[:STRENGTH]",
        help="Merge this expert in any case, at that strength if one is given.",
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="NAME", help="Do not merge this expert."),
]
Only = Annotated[bool, typer.Option("--only", help="Merge nothing but each --expert.")]


class Pixels(NamedTuple):
    """A size of images."""

    across: int
    down: int


def _pixels(text: str) -> Pixels:
    """Return a size as it is written: `512x768`, or `512` for a square."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text[:LONGEST_SHOWN]!r} is no size: write 512 or 512x768")
    across, down = found.groups()
    return Pixels(int(across), int(down or across))


Size = Annotated[
    Pixels | None,
    typer.Option(
        "--size",
        metavar="WxH",
        parser=_pixels,
        help="Pixels across and down, or one number for both; the family's own if unset.",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, max=1000, help="Denoising steps of an image.")
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="How strictly the prompt is followed: the CFG scale."),
]
Negative = Annotated[
    str | None, typer.Option("--negative", metavar="TEXT", help="What is not to be drawn.")
]
NoTriggers = Annotated[
    bool,
    typer.Option("--no-triggers", help="Add no trigger words of the merged experts to the text."),
]
METHOD = typer.Option(help="How experts are merged; `diffgraph` is ours, and the usual one.")
Method = Annotated[str, METHOD]


def _hub_kind(name: str) -> str:
    """Return a kind of hub that is known; anything else is wrong usage."""
    from diffgraph.session.hubs import check_source

    try:
        return check_source(name)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


HubKind = Annotated[
    str,
    typer.Option(
        "--source",
        callback=_hub_kind,
        help="The kind of hub: folder, civitai, huggingface, or what a package adds.",
    ),
]
HubFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--path",
        help="A hub folder, or any folder of safetensors files; the hub that ships if unset.",
    ),
]
HubOnline = Annotated[
    bool,
    typer.Option(
        "--online",
        help="Ask Civitai for files of a folder that no sidecar or header tells the page or the "
        "licence of. Their SHA-256 is sent, and nothing else; without it nothing is.",
    ),
]
HubLimit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Take so many new or changed experts at most."),
]
HubSince = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        formats=["%Y-%m-%d"],
        help="Look only at what was published since that day.",
    ),
]
HubUrl = Annotated[
    str | None, typer.Option("--url", help="The address of a live hub; its own if unset.")
]


class ShowTopic(StrEnum):
    """What can be shown."""

    GRAPH = "graph"
    EXPERTS = "experts"
    EXPERT = "expert"
    SNAPSHOT = "snapshot"
    PLAN = "plan"


class GraphFormat(StrEnum):
    """How the graph is written for other tools."""

    NPZ = "npz"
    PYG = "pyg"


class PromptSyntax(StrEnum):
    """A tool that a plan can be told to."""

    A1111 = "a1111"
    COMFYUI = "comfyui"
    DIFFUSERS = "diffusers"


Syntax = Annotated[
    PromptSyntax | None,
    typer.Option("--syntax", help="Print the plan in another tool's words instead."),
]
