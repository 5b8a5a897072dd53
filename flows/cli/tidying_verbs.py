"""What takes something out of a home: an expert for good, or what nothing needs any more.

Heavy imports wait inside the verbs.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffgraph.results import Result, Rows, rows
from flows.cli.app import app, tell
from flows.cli.options import Home, Json
from flows.cli.starting import settings_of

if TYPE_CHECKING:
    from diffgraph.session.cleaning import Spare

MEBIBYTE = 1 << 20
WORK = ("refresh", "discover", "build", "train", "evaluate")
"""Stages that write what is cleaned: it waits for them, and they for it. `refresh`, which waits for
the others, first: else each could hold what the other waits for."""


class Cleaned(Result):
    """What may go, or went."""

    done: bool
    kinds: tuple[str, ...]
    bytes: int
    table: Rows

    def lines(self) -> Iterator[str | Rows]:
        """Yield the table, and what is next."""
        yield self.table
        size = f"{self.bytes / MEBIBYTE:.1f} MiB"
        named = f"of {', '.join(self.kinds)}: {size}"
        yield f"freed {named}" if self.done else f"nothing was removed; --yes frees {named}"


@app.command()
def remove(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="source:model@version; source:model for all of it.")
    ],
    reason: Annotated[str, typer.Option(help="Why; told whenever somebody asks for it.")] = "",
    allow: Annotated[
        bool, typer.Option("--allow", help="Let what was removed come back instead.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Take an expert out for good: row, page, cards, scores; no discover brings it back.

    Its file goes, too, if it was fetched; a file in a folder of yours stays.
    """
    from diffgraph.errors import MissingInput
    from diffgraph.experts.library import Library
    from diffgraph.session.removal import Removal
    from diffgraph.session.removal import remove as run

    settings = settings_of(home)
    if allow:
        if not Library(settings.home).allow(ref):
            raise MissingInput(f"{ref[:80]!r} was not removed from {settings.home}")
        return tell(Removal(ref=ref, allowed=True), json)
    with _nobody_else(settings.home):
        tell(run(settings.home, ref, reason), json)


@app.command()
def clean(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND…]", help="What to free; see the table.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Free it without asking.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what a home holds that nothing needs, and free it; never what is in force."""
    from diffgraph.errors import InputError
    from diffgraph.session.cleaning import KINDS, PAID, free, spare

    for kind in what or ():
        if kind not in KINDS:
            raise InputError(f"no kind is called {kind[:40]!r}: there is {', '.join(KINDS)}")
    kinds = tuple(what or (kind for kind in KINDS if kind != PAID))
    settings = settings_of(home)
    if not yes:
        tell(_cleaned(spare(settings.home), kinds, done=False), json)
        if json or not sys.stdin.isatty() or not typer.confirm("free it now?"):
            return
    with _nobody_else(settings.home):
        found = spare(settings.home)
        free(one for one in found if one.kind in kinds)
    tell(_cleaned(found, kinds, done=True), json)


def _cleaned(found: "list[Spare]", kinds: tuple[str, ...], done: bool) -> Cleaned:
    table = [(one.kind, one.what, len(one.paths), f"{one.bytes / MEBIBYTE:.1f}") for one in found]
    return Cleaned(
        done=done,
        kinds=kinds,
        bytes=sum(one.bytes for one in found if one.kind in kinds),
        table=rows(("kind", "what", "number", "MiB"), table),
    )


@contextmanager
def _nobody_else(home: Path) -> Iterator[None]:
    """Wait until no stage is at work on a home, and hold the others up."""
    from diffgraph.locks import LOCKS, exclusive

    with ExitStack() as stack:
        for work in WORK:
            stack.enter_context(exclusive(home / LOCKS, work))
        yield
