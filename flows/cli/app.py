"""The command that all verbs are said to, and how it answers."""

from typing import Any

import typer

from diffgraph.telling import told

app = typer.Typer(
    name="diffgraph",
    help="Merge community text-to-image experts as a graph of what each can do suggests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def tell(result: Any, as_json: bool) -> None:
    """Print what a verb found: for people, or as one JSON document."""
    from flows.cli.printing import write

    write(result, as_json)


def complain(text: str) -> None:
    """Print one line of what went wrong on standard error."""
    typer.echo(f"diffgraph: {told(' '.join(text.split()))}", err=True)
