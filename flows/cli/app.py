"""The Typer application that all verbs belong to, and how it prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffgraph.printable import printable
from diffgraph.secrets import keep_environment


class _Verbs(TyperGroup):
    """Says what is wrong with a command line as all is said: harmless, and no secret in it."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        with _usage_printable():
            return super().make_context(*given, **named)

    def invoke(self, context: Any) -> Any:
        with _usage_printable():
            return super().invoke(context)


@contextmanager
def _usage_printable() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, _UsageError):
            keep_environment()  # no verb has read the settings yet
            error.message = "\n".join(map(printable, error.message.split("\n")))
        raise


_UsageError: Any = typer.BadParameter.__base__  # typer's own, or click's: it depends on the version


app = typer.Typer(
    name="diffgraph",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        from diffgraph.version import version

        typer.echo(f"diffgraph {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Say which this is."),
    ] = False,
) -> None:
    """Merge community text-to-image experts as a graph of what each can do suggests."""


def tell(result: Any, as_json: bool) -> None:
    """Print what a verb found: for people, or as one JSON document."""
    from flows.cli.printing import write

    write(result, as_json)


def print_error(text: str) -> None:
    """Print one line of what went wrong on standard error."""
    typer.echo(f"diffgraph: {printable(' '.join(text.split()))}", err=True)
