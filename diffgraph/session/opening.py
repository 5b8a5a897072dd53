"""Where is everything, and can it be used? Settings and a home are looked at first."""

import os
from pathlib import Path
from typing import Any

from diffgraph.errors import InputError
from diffgraph.families import get_family
from diffgraph.session.session import Session
from diffgraph.settings import Settings


def open_session(
    home: str | os.PathLike[str] | None, family: str | None, device: str | None
) -> Session:
    """Return a session; see `diffgraph.open`."""
    from diffgraph.generation import device_of

    folder = None if home is None else Path(home).expanduser().absolute()
    given = {"home": folder, "family": family, "device": device}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    device_of(settings.device)
    _demand_readable(settings.home)
    return Session.of(settings)


def read_settings(**given: Any) -> Settings:
    """Return the settings, what is given first.

    Raises:
        UnknownFamily: there is no such family.
        InputError: a setting cannot be used.
    """
    try:
        settings = Settings(**given)
    except ValueError as error:
        raise InputError(f"a setting cannot be used: {_in_a_line(error)}") from error
    get_family(settings.family)
    return settings


def _demand_readable(home: Path) -> None:
    try:
        with os.scandir(home):
            pass
    except FileNotFoundError:
        pass  # a new one
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the home {str(home)!r} cannot be read: {reason}") from error


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3])
