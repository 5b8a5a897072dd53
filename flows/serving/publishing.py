"""How does a server show what a flow found? Each line in the log of its run, all as an artifact."""

from collections.abc import Iterator

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from diffgraph.telling import told
from flows.cli.printing import Printable, Rows, markdown


def publish(result: Printable, key: str) -> None:
    """Show a flow's result where its run is looked at; call it in the flow.

    Args:
        result: What a person is told on a terminal, tables included.
        key: Of the artifact, which keeps its versions.
    """
    log = get_run_logger()
    for line in _lines(result):
        log.info(line)
    create_markdown_artifact(markdown(*result.lines()), key=key)


def _lines(result: Printable) -> Iterator[str]:
    for part in result.lines():
        if isinstance(part, Rows):
            yield from (told("  ".join(row)) for row in part.rows)
        else:
            yield told(part)
