"""Makes texts from outside safe to print, log and store.

Nothing that steers a terminal, hides, or turns the direction of writing; and no secret. Every text
that leaves goes through here: the messages of our errors when they are made, log records when they
are written, results when they are printed.
"""

import json
import logging
import traceback
from typing import Any

from diffgraph.secrets import masked

INVISIBLE = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))
) | frozenset(map(chr, (*range(0x180B, 0x180F), *range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0))))
"""Invisible characters that Unicode counts as printable: fillers and variation selectors."""


LONGEST = 1000
"""Characters of an error's text at most."""
END = 250  # of them that are its end, where the reason stands


def printable(text: str) -> str:
    """Return a text without secrets and on one line, fit for a terminal."""
    return harmless(masked(text))


def printable_briefly(text: str) -> str:
    """Return the same, without the middle of a text longer than `LONGEST`."""
    said = printable(text)
    if len(said) <= LONGEST:
        return said
    return f"{said[: LONGEST - END - 3]} … {said[-END:]}"


def harmless(text: str, instead: str = " ") -> str:
    """Return a text without characters that steer a terminal or hide; a space is in their place."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate({ord(c): instead for c in set(text) if not _is_harmless(c)})


def harmless_json(document: str) -> str:
    """Return a JSON document of the same meaning that is safe to show: bad letters by number."""
    bad = {c for c in set(document) if not _is_harmless(c) and c != "\n"}
    return document.translate({ord(c): json.dumps(c)[1:-1] for c in bad})


def guard_logs() -> None:
    """Keep secrets out of every log record of this process, ours or a library's."""
    make = logging.getLogRecordFactory()
    if getattr(make, "keeps_secrets", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            said = made.getMessage()
        except Exception:  # its writer's mistake: logging itself says so, with the place
            return made
        if (text := _line_by_line(said)) != said:
            made.msg, made.args = text, None
        if made.exc_info and made.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*made.exc_info)).rstrip("\n")
            if (text := _line_by_line(trace)) != trace:
                made.exc_text = text  # what formatters take instead of formatting it anew
        return made

    record.keeps_secrets = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


def printable_traceback(error: BaseException) -> str:
    """Return an error's traceback as Python prints it, without secrets and harmless."""
    return _line_by_line("".join(traceback.format_exception(error)))


def mask_error(error: Exception) -> Exception:
    """Return the error, or one in its place, such that its text holds no secret."""
    said = str(error)
    if masked(said) == said:
        return error
    error.args = tuple(masked(part) if isinstance(part, str) else part for part in error.args)
    if masked(str(error)) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {printable(said)}")


def _line_by_line(text: str) -> str:
    return "\n".join(harmless(line) for line in masked(text).split("\n"))


def _is_harmless(letter: str) -> bool:
    return letter.isprintable() and letter not in INVISIBLE
