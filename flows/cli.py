"""The `diffgraph` command: parse, call, print. Heavy imports wait inside the verbs.

Exit codes: 0 success, 1 an error of ours in one line on standard error, 2 wrong usage. With
`--json` standard output is one JSON document; progress and logs go to standard error, always.
"""

import errno
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from diffgraph.errors import DiffgraphError, StorageError
from flows.options import (
    Agent,
    Config,
    Family,
    FileLayout,
    FileType,
    Gpus,
    GraphFormat,
    Home,
    Json,
    Method,
    Prompts,
    PromptSyntax,
    Scheduler,
    Source,
    Subject,
    Workers,
)
from flows.starting import pipeline, settings_of

app = typer.Typer(
    name="diffgraph",
    help="Merge community text-to-image experts as a graph of what each can do suggests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the report and all else goes.")] = Path("demo"),
    config: Config = None,
    json: Json = False,
) -> None:
    """Watch the whole system work on the bundled family: hub, graph, training, images, report."""
    settings = settings_of(home=out / "home", config=config)
    with pipeline(settings):
        from flows.demo import demo as run

        _print(run(out=out), json)


@app.command()
def discover(
    source: Annotated[Source, typer.Option(help="The kind of hub.")] = Source.FOLDER,
    path: Annotated[
        Path | None, typer.Option(help="A hub folder; the one that ships with the family if unset.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take so many new or changed experts at most.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Look only at what was published since that day."),
    ] = None,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Read pages, fetch no weights.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="The address of a live hub; its own if unset.")
    ] = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bring a hub's experts into the library; say which were refused, and why."""
    settings = settings_of(home, family, config=config)
    from tasks.hubs import hub_of

    hub_of(source, path, url, settings.family)  # what cannot be meant is told before it starts
    with pipeline(settings):
        from flows.discover import discover as run

        found = run(
            path=path,
            family=settings.family,
            limit=limit,
            since=since,
            metadata_only=metadata_only,
            source=source.value,
            url=url,
        )
        _print(found, json)


@app.command()
def build(
    candidates: Annotated[
        Path | None,
        typer.Option(help="Choose reference prompts from this .jsonl or .parquet file."),
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="A file of prompts to train or test on: never reference prompts."),
    ] = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    agent: Agent = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Describe and calibrate what is new, and write a snapshot of the graph."""
    settings = settings_of(
        home, family, agent=agent, config=config, gpus=gpus, scheduler=scheduler, workers=workers
    )
    with pipeline(settings):
        from flows.build_graph import build as run

        built = run(family=settings.family, candidates=candidates, exclude=tuple(exclude or ()))
        _print(built, json)


@app.command()
def refresh(
    path: Annotated[
        Path | None, typer.Option(help="A hub folder; the bundled one if unset.")
    ] = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    agent: Agent = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Do the nightly run: discover, build, train when it is due; say what changed."""
    settings = settings_of(
        home, family, agent=agent, config=config, gpus=gpus, scheduler=scheduler, workers=workers
    )
    with pipeline(settings):
        from flows.refresh import refresh as run

        _print(run(path=path, family=settings.family), json)


@app.command()
def train(
    steps: Annotated[int | None, typer.Option(min=1, help="Policy updates.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    snapshot: Annotated[str | None, typer.Option(help="Its id; the current one if unset.")] = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Train the planner on generated and scored images; it is promoted only if it is better."""
    settings = settings_of(
        home, family, config=config, gpus=gpus, scheduler=scheduler, workers=workers
    )
    with pipeline(settings):
        from flows.train_planner import train as run

        _print(run(snapshot=snapshot, steps=steps, seed=seed, family=settings.family), json)


@app.command()
def plan(
    prompts: Prompts,
    method: Method = "diffgraph",
    agent: Agent = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say which experts would be merged for a prompt, how strongly and why; draw nothing."""
    settings = settings_of(home, family, config=config, agent=agent)
    from flows.generate import plan as run

    _print(run(prompts, settings, method=method), json)


@app.command()
def generate(
    prompts: Prompts,
    seed: Annotated[int, typer.Option(help="Of the first noise.")] = 0,
    plan: Annotated[Path | None, typer.Option(help="Draw with this plan file.")] = None,
    out: Annotated[Path, typer.Option(help="Where the images go.")] = Path("."),
    method: Method = "diffgraph",
    agent: Agent = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Draw images; plan, prompt and seed are written into each file."""
    settings = settings_of(home, family, config=config, agent=agent)
    from flows.generate import generate as run

    _print(run(prompts, settings, seed=seed, plan_file=plan, out=out, method=method), json)


@app.command()
def merge(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, or an image of ours.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The .safetensors file, or the folder in the diffusers layout."),
    ] = None,
    layout: Annotated[
        FileLayout | None, typer.Option(help="By default what the name of OUT suggests.")
    ] = None,
    type: Annotated[FileType, typer.Option(help="Of the numbers.")] = FileType.FP16,
    as_lora: Annotated[
        int | None,
        typer.Option(min=1, metavar="RANK", help="Write the nearest LoRA of this rank instead."),
    ] = None,
    syntax: Annotated[
        PromptSyntax | None, typer.Option(help="Print the plan in another tool's words instead.")
    ] = None,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Write what a plan makes of its base as a file that other tools load."""
    if (out is None) == (syntax is None):
        raise typer.BadParameter("say where with --out, or in which --syntax", param_hint="--out")
    settings = settings_of(home, family)
    from flows import merge as merging
    from flows.progress import shown

    with shown():
        if syntax is not None:
            result: Any = merging.say(plan, settings, syntax)
        elif as_lora is not None and out is not None:
            result = merging.as_lora(plan, settings, out, as_lora, type)
        elif out is not None:
            result = merging.merge(plan, settings, out, layout, type)
    _print(result, json)


@app.command()
def batch(
    prompts: Annotated[Path, typer.Argument(help="A .parquet, .jsonl, .csv or .txt file.")],
    out: Annotated[Path, typer.Option(help="Where images and results.parquet go.")],
    column: Annotated[str, typer.Option(help="The column that holds the prompts.")] = "prompt",
    limit: Annotated[int | None, typer.Option(min=1, help="Draw so many at most.")] = None,
    method: Method = "diffgraph",
    seed: Annotated[int, typer.Option(help="Of the first noise.")] = 0,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    gpus: Gpus = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Draw a file of prompts; a second run goes on where the first one stopped."""
    settings = settings_of(
        home, family, config=config, gpus=gpus, scheduler=scheduler, workers=workers
    )
    with pipeline(settings):
        from flows.batch import batch as run

        result = run(
            prompts=prompts,
            out=out,
            column=column,
            limit=limit,
            method=method,
            seed=seed,
            family=settings.family,
        )
        _print(result, json)


@app.command()
def evaluate(
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; all that are known if unset.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="A bundled set (bench, freeform) or a file of prompts.")
    ] = "bench",
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many prompts at most.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    retrieval: Annotated[
        Path | None,
        typer.Option(help="Measure how well experts are found, against these labels (JSONL)."),
    ] = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Compare methods on the same prompts, seeds and noise, with confidence intervals."""
    settings = settings_of(home, family, config=config)
    if retrieval is not None:
        if methods or report:
            raise typer.BadParameter(
                "draws nothing: no methods, no report", param_hint="--retrieval"
            )
        from flows.retrieval import retrieval as measure

        return _print(measure(settings, retrieval, limit), json)
    with pipeline(settings):
        from flows.evaluate import evaluate as run

        names = methods.split(",") if methods else None
        result = run(
            methods=names, prompts=prompts, limit=limit, report=report, family=settings.family
        )
        _print(result, json)


@app.command()
def show(
    what: Annotated[Subject, typer.Argument(help="What to look at.")],
    which: Annotated[str | None, typer.Argument(help="Its id, reference or file.")] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Of the experts: those never merged, and why.")
    ] = False,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Look at what is known: the graph, an expert, a snapshot, a plan."""
    if which is None and what in (Subject.EXPERT, Subject.PLAN):
        raise typer.BadParameter(f"name the {what} to show", param_hint="WHICH")
    if rejected and what != Subject.EXPERTS:
        raise typer.BadParameter("only experts are rejected", param_hint="--rejected")
    settings = settings_of(home, family)
    from flows import show as shown

    options = {"rejected": True} if rejected else {}
    _print(getattr(shown, what)(settings, which, **options), json)


@app.command(name="export-graph")
def export_graph(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format: Annotated[
        GraphFormat, typer.Option(help="COO edges in .npz files, or PyTorch Geometric's.")
    ] = GraphFormat.NPZ,
    snapshot: Annotated[str | None, typer.Option(help="Its id; the current one if unset.")] = None,
    home: Home = None,
    family: Family = None,
    json: Json = False,
) -> None:
    """Write the graph for other tools: COO edges with .npz features, or PyTorch Geometric."""
    settings = settings_of(home, family)
    from flows.show import export

    _print(export(settings, out, snapshot, format), json)


@app.command()
def doctor(home: Home = None, json: Json = False) -> None:
    """Check the installation, devices, disk, services and keys, and say what to do."""
    settings = settings_of(home)
    from flows.doctor import examine

    examination = examine(settings)
    _print(examination, json)
    raise typer.Exit(0 if examination.is_healthy else 1)


def _print(result: Any, as_json: bool) -> None:
    from flows.printing import write

    write(result, as_json)


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a disk says when it will not take more."""


def main() -> None:
    """Run the command; every error of ours becomes one line and exit code 1."""
    _prepare_process()
    try:
        app()
    except DiffgraphError as error:
        _fail(f"{type(error).__name__}: {error}")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _fail(f"{StorageError.__name__}: {error.filename or 'the disk'}: {error.strerror}")


def _prepare_process() -> None:
    """Keep this process and those it starts quiet, and show our own warnings."""
    import logging

    from flows.server import QUIET

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("diffgraph: %(message)s"))
    for room in ("diffgraph", "tasks", "flows"):
        logging.getLogger(room).addHandler(handler)


def _fail(text: str) -> None:
    typer.echo("diffgraph: " + " ".join(text.split()), err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
