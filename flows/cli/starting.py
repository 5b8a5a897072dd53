"""What a verb needs before it begins: usable settings, a home, a Prefect API."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffgraph.errors import InputError
from flows.serving.stopping import Terminated, stopped_by_signals

if TYPE_CHECKING:
    from diffgraph.settings import Settings

log = logging.getLogger(__name__)


def settings_of(home: Path | None = None, family: str | None = None, **others: Any) -> "Settings":
    """Return the settings, those of the command line first.

    They are put into the environment, so that flows and worker processes read the same. What the
    folder in which the command was started would like to set is told and not read.
    """
    given = {"home": home and home.expanduser().absolute(), "family": family, **others}
    if given.get("gpus"):
        given["gpus"] = f"[{given['gpus']}]"
    if given.get("config"):
        given["config"] = given["config"].expanduser().absolute()  # workers may start elsewhere
    for name, value in given.items():
        if value is not None:
            os.environ[f"DIFFGRAPH_{name.upper()}"] = str(value)
    from diffgraph.permissions import close
    from diffgraph.session.opening import read_settings
    from flows.serving.working_folder import ignored, keep_out

    settings = read_settings()
    keep_out(settings.home)
    close(settings.home)
    for line in filter(None, (*ignored(), settings.unknown())):
        log.warning("%s", line)
    from diffgraph.session.overrides import read_overrides

    read_overrides(settings.config)  # what cannot be is told before anything starts
    return settings


def hub_settings(source: str, url: str | None) -> dict[str, str | None]:
    """Return the setting that a hub's address on the command line is."""
    from diffgraph.settings import Settings

    setting = f"{source}_url"
    return {setting: url} if setting in Settings.model_fields else {}


@contextmanager
def pipeline(settings: "Settings") -> Iterator[None]:
    """Show progress, and have a Prefect API to report to."""
    from prefect.exceptions import ParameterTypeError

    from diffgraph.artifacts import new_file
    from diffgraph.progress import report
    from flows.cli.progress_bars import shown
    from flows.serving.server import prefect_api

    _demand_plain_name(settings.home)
    with new_file(settings.home / ".writable"):
        pass  # a home that cannot be written is told now and not after minutes of work
    (settings.home / ".writable").unlink(missing_ok=True)
    try:
        with shown(), stopped_by_signals():
            report("start", 0, 1, "Prefect")
            with prefect_api(settings.home) as address:
                report("start", 1, 1, address)
                yield
    except KeyboardInterrupt:
        typer.echo("diffgraph: stopped; the same command goes on from here", err=True)
        raise  # typer ends with 130, as shells expect
    except Terminated as error:
        typer.echo("diffgraph: stopped; the same command goes on from here", err=True)
        raise typer.Exit(128 + error.signal) from error
    except ParameterTypeError as error:
        raise InputError(" ".join(str(error).split())) from error


def _demand_plain_name(home: Path) -> None:
    """Raise `InputError` for a home whose databases would lie somewhere else."""
    for letter in "?#%":
        if letter in str(home.resolve()):
            raise InputError(
                f"the home {home.resolve()} has a {letter!r} in its name: databases in it are "
                "named by addresses, where that means something else; choose another with --home"
            )
