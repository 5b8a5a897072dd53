"""Runs deployments: Prefect's worker, a run at a time, dead runs marked first."""

import os
import sys

import typer

from diffgraph.errors import InputError
from diffgraph.settings import Settings


def work(settings: Settings, pool: str) -> None:
    """Mark the runs that died with the worker before, and become a worker of Prefect.

    Args:
        settings: Where things are, and how many runs are at work at a time; the runs read the same
            from the environment.
        pool: The work pool; it is made if it is not there.

    Raises:
        InputError: `PREFECT_API_URL` is not set.
        ServiceError: No server that takes our runs answers there.
    """
    from flows.serving.alive import mark_the_dead
    from flows.serving.reaching import demand_server
    from flows.serving.server import configure

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        raise InputError("PREFECT_API_URL is not set: say which Prefect server deploys work")
    # there is no terminal for bars: what the runs say is for whoever reads the worker's log
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    configure(settings.home)
    demand_server(address)
    for line in mark_the_dead():
        typer.echo(line)
    options = ("--pool", pool, "--type", "process", "--limit", str(settings.runs_at_once))
    command = (sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", *options)
    os.execv(command[0], command)
