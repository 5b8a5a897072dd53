"""How is the bundled family made again? Its recipe from the art to the proofs, resumable.

The graph and the planner that ship are made by the ordinary flows: by discovering, building and
training on the hub that was just published.

`python -m recipes.emoji64.flow --out out/emoji64 --device cuda --gpus 0` does it on one GPU. With
`--rehearse --device cpu` every stage runs in miniature below `--out`, and nothing that ships is
touched.
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffgraph.families.emoji64 import ASSETS
from diffgraph.homes import family_folder
from diffgraph.progress import report
from diffgraph.results import Result, Rows
from diffgraph.session.planners import SHIPPED, champion_folder
from diffgraph.settings import Settings
from flows.build_graph import build
from flows.cli.printing import write
from flows.discover import discover
from flows.serving.publishing import publish
from flows.serving.watched import flow
from flows.train_planner import train
from recipes.emoji64.__main__ import add_settings, settings_of
from recipes.emoji64.publish import publish_graph
from recipes.emoji64.recipe_settings import RecipeSettings
from recipes.emoji64.stages import run_stage
from tasks.policies import LOCAL, named, task

FAMILY = "emoji64"

GRAPH = "graph"
STAGES = ("art", "base", "refine", "experts", "together", "scorers", "publish", GRAPH, "prove")


class MadeFamily(Result):
    """What was made, and how long each stage took; a stage that was run before takes no time."""

    assets: Path
    document: Path | None
    seconds: dict[str, float]

    def lines(self) -> Iterator[str | Rows]:
        """Yield the folders and the seconds."""
        told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        yield f"{told}; in all {sum(self.seconds.values()):.0f} s"
        yield f"the family: {self.assets}"
        if self.document:
            yield f"what it is worth: {self.document}"


@flow(name="train-emoji64", validate_parameters=False)
def train_emoji64(settings: RecipeSettings, stages: Sequence[str] = STAGES) -> MadeFamily:
    """Run the recipe; what is finished is not made again.

    Args:
        settings: where it reads and writes, and how much it makes.
        stages: some of `STAGES`.
    """
    seconds = {
        stage: make_graph(settings) if stage == GRAPH else make_stage(stage, settings)
        for stage in STAGES
        if stage in stages
    }
    document = settings.docs / "emoji64.md"
    made = MadeFamily(
        assets=settings.assets,
        document=document if document.is_file() else None,
        seconds=seconds,
    )
    publish(made, key="emoji64")
    return made


@task(**LOCAL, task_run_name=named(lambda given: given["stage"]))
def make_stage(stage: str, settings: RecipeSettings) -> float:
    """Run a stage, or find that it was run; return the seconds it took."""
    started = time.monotonic()
    report(stage, 0, 1)
    run_stage(stage, settings)
    report(stage, 1, 1)
    return round(time.monotonic() - started, 1)


def make_graph(settings: RecipeSettings) -> float:
    """Ship a graph of the hub that was published and a planner for it; return the seconds it took.

    The planner is trained as the one that shipped before, and shipped if it is better on the new
    graph. A rehearsal publishes where no verb looks: it has neither.
    """
    if settings.assets != ASSETS:
        return 0.0
    started = time.monotonic()
    discover(family=FAMILY)
    built = build(family=FAMILY)
    train(family=FAMILY, like=SHIPPED)
    home = Settings().home
    graph = family_folder(home, FAMILY) / "snapshots" / built.snapshot
    publish_graph(graph, champion_folder(home, FAMILY), settings.assets)
    return round(time.monotonic() - started, 1)


def main() -> None:
    """Run the recipe as the arguments say."""
    from diffgraph.errors import DiffgraphError
    from flows.serving.server import prefect_api

    parser = argparse.ArgumentParser(prog="python -m recipes.emoji64.flow", description=__doc__)
    add_settings(parser)
    given = parser.parse_args()
    # the library, the scores and the planner's training are kept beside what else is made
    os.environ["DIFFGRAPH_HOME"] = str((given.out / "home").resolve())
    os.environ["DIFFGRAPH_DEVICE"] = given.device
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("recipes.emoji64").setLevel(logging.INFO)
    try:
        with prefect_api(given.out):
            made = train_emoji64(settings_of(given))
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on from here\n")
    except DiffgraphError as error:
        parser.exit(1, f"{error}\n")
    write(made, as_json=False)


if __name__ == "__main__":
    main()
