"""What runs for minutes or hours, as flows: their options, and nothing else.

Heavy imports wait inside the verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from diffgraph.settings import Settings
from flows.cli.app import app, print_error, tell
from flows.cli.options import (
    Agent,
    Candidates,
    Config,
    Exclude,
    Family,
    Force,
    Gpus,
    Home,
    HubFolders,
    HubKind,
    HubLimit,
    HubOnline,
    HubSince,
    HubUrl,
    Json,
    Like,
    Method,
    Scheduler,
    Seed,
    Workers,
)
from flows.cli.starting import hub_settings, pipeline, settings_of


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the report and all else goes.")] = Path("demo"),
    force: Force = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Watch the whole system work on the bundled family: hub, graph, training, images, report."""
    from diffgraph.targets import demand_folder

    demand_folder(out, settings_of(config=config), force, ("report.html",), begun="home")
    settings = settings_of(home=out / "home", config=config)
    with pipeline(settings):
        from flows.cli.demo import demo as run

        tell(run(out=out), json)


@app.command()
def discover(
    source: HubKind = "folder",
    path: HubFolders = None,
    online: HubOnline = False,
    limit: HubLimit = None,
    since: HubSince = None,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Read pages, fetch no weights.")
    ] = False,
    url: HubUrl = None,
    home: Home = None,
    family: Family = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bring a hub's experts into the library; say which were refused, and why."""
    settings = settings_of(home, family, config=config, **hub_settings(source, url))
    first, also = _folders(source, path, url, settings, online)
    with pipeline(settings):
        from flows.discover import discover as run

        found = run(
            path=first,
            also=also,
            online=online,
            family=settings.family,
            limit=limit,
            since=since,
            metadata_only=metadata_only,
            source=source,
            url=url,
        )
        tell(found, json)


@app.command()
def build(
    candidates: Candidates = None,
    exclude: Exclude = None,
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
        tell(built, json)


@app.command()
def refresh(
    source: HubKind = "folder",
    path: HubFolders = None,
    online: HubOnline = False,
    limit: HubLimit = None,
    since: HubSince = None,
    url: HubUrl = None,
    candidates: Candidates = None,
    exclude: Exclude = None,
    like: Like = None,
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
        home,
        family,
        agent=agent,
        config=config,
        gpus=gpus,
        scheduler=scheduler,
        workers=workers,
        **hub_settings(source, url),
    )
    first, also = _folders(source, path, url, settings, online)
    _demand_planner(settings, like)
    with pipeline(settings):
        from flows.refresh import refresh as run

        night = run(
            path=first,
            also=also,
            online=online,
            family=settings.family,
            candidates=candidates,
            exclude=tuple(exclude or ()),
            source=source,
            url=url,
            since=since,
            limit=limit,
            like=like,
        )
        tell(night, json)


@app.command()
def train(
    steps: Annotated[int | None, typer.Option(min=1, help="Policy updates.")] = None,
    seed: Seed = 0,
    snapshot: Annotated[str | None, typer.Option(help="Its id; the current one if unset.")] = None,
    like: Like = None,
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
    _demand_planner(settings, like)
    with pipeline(settings):
        from flows.train_planner import train as run

        done = run(snapshot=snapshot, steps=steps, seed=seed, family=settings.family, like=like)
        tell(done, json)


def _folders(
    source: str,
    paths: list[Path] | None,
    url: str | None,
    settings: Settings,
    online: bool,
) -> tuple[Path | None, tuple[Path, ...]]:
    """Return the first folder that is meant and the others; raises what cannot be meant."""
    from diffgraph.session.hubs import hub_of

    first, *also = paths or (None,)
    for folder in (first, *also):
        hub_of(source, folder, url, settings.family, online)
    return first, tuple(folder for folder in also if folder is not None)


def _demand_planner(settings: Settings, like: str | None) -> None:
    """Raise `MissingInput` if there is no planner to train like."""
    if like is not None:
        from diffgraph.session.planners import planner_folder

        planner_folder(settings.home, settings.family, like)


@app.command()
def batch(
    prompts: Annotated[Path, typer.Argument(help="A .parquet, .jsonl, .csv or .txt file.")],
    out: Annotated[Path, typer.Option(help="Where images and results.parquet go.")],
    column: Annotated[str, typer.Option(help="The column that holds the prompts.")] = "prompt",
    limit: Annotated[int | None, typer.Option(min=1, help="Draw so many at most.")] = None,
    method: Method = "diffgraph",
    seed: Seed = 0,
    force: Force = False,
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
            force=force,
        )
        tell(result, json)
    if result.failed or result.broken or not result.images:
        told = f"{result.images} of {result.images + result.failed + result.broken}"
        print_error(f"{told} prompts of {prompts} were drawn")
        raise typer.Exit(1)


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
    force: Force = False,
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
        from flows.cli.evaluate_retrieval import retrieval as measure

        return tell(measure(settings, retrieval, limit), json)
    with pipeline(settings):
        from flows.evaluate import evaluate as run

        names = tuple(methods.split(",")) if methods else None
        result = run(
            methods=names,
            prompts=prompts,
            limit=limit,
            report=report,
            family=settings.family,
            force=force,
        )
        tell(result, json)


@app.command()
def worker(
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time; each may want a whole GPU. One if unset."),
    ] = None,
    pool: Annotated[str, typer.Option(help="The work pool of prefect.yaml.")] = "diffgraph",
    home: Home = None,
) -> None:
    """Carry out what is deployed on the Prefect server that PREFECT_API_URL names."""
    from flows.serving.worker import work

    work(settings_of(home, runs_at_once=limit), pool)
