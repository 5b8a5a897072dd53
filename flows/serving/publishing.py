"""How does a server show what a flow found? Each line in the log of its run, all as an artifact."""

import re
from collections.abc import Iterator

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from diffgraph.printable import printable
from diffgraph.results import Result, Rows


def publish(result: Result, key: str) -> None:
    """Show a flow's result where its run is looked at; call it in the flow.

    Args:
        result: What a person is told on a terminal, tables included.
        key: Of the artifact, which keeps its versions.
    """
    log = get_run_logger()
    for line in _lines(result):
        log.info(line)
    create_markdown_artifact(markdown(*result.lines()), key=key)


def _lines(result: Result) -> Iterator[str]:
    for part in result.lines():
        if isinstance(part, Rows):
            yield from (printable("  ".join(row)) for row in part.rows)
        else:
            yield printable(part)


def markdown(*parts: str | Rows) -> str:
    """Return lines and tables for a Prefect artifact; what they say is text and never markup."""
    return "\n\n".join(_plain(part) if isinstance(part, str) else _table(part) for part in parts)


def _table(table: Rows) -> str:
    body = [map(_plain, table.columns), ("---",) * len(table.columns)]
    body += [map(_plain, row) for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in body)


def _plain(text: str) -> str:
    text = re.sub(r"[\\`*_\[\]|~]", r"\\\g<0>", printable(text).strip())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"^(#|>|[-+] )", r"\\\1", text)
