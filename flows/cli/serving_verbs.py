"""What answers a person at once, without an orchestrator: their options, and nothing else.

Heavy imports wait inside the verbs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgraph.targets import FileLayout, FileType
from flows.cli.app import app, print_error, tell
from flows.cli.options import (
    METHOD,
    SEED,
    Agent,
    Config,
    Count,
    Experts,
    Family,
    Force,
    GraphFormat,
    Guidance,
    Home,
    Json,
    Method,
    Negative,
    NoTriggers,
    Only,
    Prompts,
    ShowTopic,
    Size,
    Steps,
    Syntax,
    Without,
)
from flows.cli.starting import settings_of
from flows.cli.stdin_prompts import read_prompts

if TYPE_CHECKING:
    from diffgraph.results import Result
    from flows.cli.prompt_results import PromptResults

LONGEST_PROMPT = 80


@app.command()
def plan(
    prompts: Prompts,
    expert: Experts = None,
    without: Without = None,
    only: Only = False,
    no_triggers: NoTriggers = False,
    method: Method = "diffgraph",
    syntax: Syntax = None,
    agent: Agent = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say which experts would be merged for a prompt, how strongly and why; draw nothing."""
    prompts = read_prompts(prompts)
    _demand_experts(only, expert, prompts)
    if syntax is not None and len(prompts) > 1 and not json:
        raise typer.BadParameter("one prompt at a time, or with --json", param_hint="--syntax")
    settings = settings_of(home, family, config=config, agent=agent)
    from diffgraph.session.deciding import choices_of
    from diffgraph.session.drawing import Sampling
    from flows.cli.generate import Wishes
    from flows.cli.generate import plan as run

    choices = choices_of(expert or (), without or (), only)
    sampling = Sampling(triggers=False if no_triggers else None)
    wishes = Wishes(method=method, choices=choices, sampling=sampling)
    _tell_all(run(prompts, settings, _each_told(json), wishes, syntax), json)


@app.command()
def generate(
    prompts: Prompts,
    count: Count = 1,
    seed: Annotated[int | None, SEED] = None,
    expert: Experts = None,
    without: Without = None,
    only: Only = False,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Negative = None,
    no_triggers: NoTriggers = False,
    plan: Annotated[
        Path | None,
        typer.Option(help="Draw with the plan in this file, an image of ours for one."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Draw with an image's experts, strengths, settings, negative prompt and seed.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder that the images go to.")
    ] = Path("."),
    method: Annotated[str | None, METHOD] = None,
    agent: Agent = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Draw images; plan, prompt and seed are written into each file."""
    prompts = read_prompts(prompts)
    _demand_experts(only, expert, prompts)
    given = [name for name, value in (("--plan", plan), ("--like", like)) if value is not None]
    chosen = {"--expert": expert, "--without": without, "--only": only, "--method": method}
    others = [*given[1:], *(name for name, value in chosen.items() if value)]
    if given and others:
        told = f"it says which experts are merged: no {' or '.join(others)}"
        raise typer.BadParameter(told, param_hint=given[0])
    settings = settings_of(home, family, config=config, agent=agent)
    from diffgraph.session.deciding import choices_of
    from diffgraph.session.drawing import Sampling
    from flows.cli.generate import Wishes
    from flows.cli.generate import generate as run

    choices = choices_of(expert or (), without or (), only)
    triggers = False if no_triggers else None
    sampling = Sampling(steps, guidance, size, negative, triggers)
    wishes = Wishes(seed, count, plan, like, method or "diffgraph", choices, sampling)
    _tell_all(run(prompts, settings, _each_told(json), wishes, out), json)


def _demand_experts(only: bool, experts: list[str] | None, prompts: list[str]) -> None:
    if only and not experts and not any("<" in prompt for prompt in prompts):
        raise typer.BadParameter("name what is merged with --expert", param_hint="--only")


def _each_told(as_json: bool) -> "Callable[[Result], None]":
    """Return what tells a person of each prompt at once; a program gets one document at the end."""
    return (lambda _: None) if as_json else (lambda result: tell(result, False))


def _tell_all(results: "PromptResults", as_json: bool) -> None:
    """Tell what is left to tell, and which prompts failed: exit code 1 if any did."""
    tell(results, as_json)
    for failure in results.failed:
        print_error(f"{failure.prompt[:LONGEST_PROMPT]!r}: {failure.reason}")
    if results.failed:
        print_error(f"nothing was made for {len(results.failed)} of the prompts, see above")
        raise typer.Exit(1)


@app.command()
def why(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG file that was drawn.")],
    json: Json = False,
) -> None:
    """Say why an image looks as it does: its experts, the reasons, strengths and licences."""
    from flows.cli.why import explain

    tell(explain(image), json)


@app.command()
def merge(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, or an image of ours.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The .safetensors file, or the folder in the diffusers layout."
        ),
    ] = None,
    layout: Annotated[
        FileLayout | None, typer.Option(help="By default what the name of OUT suggests.")
    ] = None,
    type: Annotated[FileType, typer.Option(help="Of the numbers.")] = FileType.FP16,
    as_lora: Annotated[
        int | None,
        typer.Option(min=1, metavar="RANK", help="Write the nearest LoRA of this rank instead."),
    ] = None,
    syntax: Syntax = None,
    force: Force = False,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Write what a plan makes of its base as a file that other tools load."""
    if (out is None) == (syntax is None):
        raise typer.BadParameter("say where with --out, or in which --syntax", param_hint="--out")
    if syntax is not None and (as_lora is not None or layout is not None or force):
        raise typer.BadParameter("words are no file: no --layout, --as-lora or --force",
                                 param_hint="--syntax")  # fmt: skip
    if as_lora is not None and layout is not None:
        raise typer.BadParameter("a LoRA has one layout", param_hint="--layout")
    settings = settings_of(home, family)
    from flows.cli import merge as merging
    from flows.cli.progress_bars import shown

    with shown():
        if syntax is not None:
            result: Any = merging.say(plan, settings, syntax)
        elif out is not None:
            how = {"layout": layout, "type": type, "rank": as_lora, "force": force}
            result = merging.merge(plan, settings, out, **how)
    tell(result, json)


@app.command()
def show(
    what: Annotated[ShowTopic, typer.Argument(help="What to look at.")],
    which: Annotated[str | None, typer.Argument(help="Its id, reference or file.")] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Of the experts: those never merged, and why.")
    ] = False,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Look at what is known: the graph, an expert, a snapshot, a plan."""
    if which is None and what in (ShowTopic.EXPERT, ShowTopic.PLAN):
        raise typer.BadParameter(f"name the {what} to show", param_hint="WHICH")
    if rejected and what != ShowTopic.EXPERTS:
        raise typer.BadParameter("only experts are rejected", param_hint="--rejected")
    settings = settings_of(home, family)
    from flows.cli import show as shown

    options = {"rejected": True} if rejected else {}
    tell(getattr(shown, what)(settings, which, **options), json)


@app.command(name="export-graph")
def export_graph(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format: Annotated[
        GraphFormat, typer.Option(help="COO edges in .npz files, or PyTorch Geometric's.")
    ] = GraphFormat.NPZ,
    snapshot: Annotated[str | None, typer.Option(help="Its id; the current one if unset.")] = None,
    force: Force = False,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Write the graph for other tools: COO edges with .npz features, or PyTorch Geometric."""
    settings = settings_of(home, family)
    from flows.cli.show import export

    tell(export(settings, out, snapshot, format, force), json)


@app.command()
def doctor(
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Read every byte of the library's weights, too.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check the installation, devices, disk, services and keys, and say what to do."""
    settings = settings_of(home)
    from flows.cli.doctor import examine

    examination = examine(settings, thorough)
    tell(examination, json)
    raise typer.Exit(0 if examination.is_healthy else 1)
