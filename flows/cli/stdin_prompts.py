"""Which prompts are drawn, where `-` stands for those of standard input?"""

import sys
from collections.abc import Sequence

import typer

from diffgraph.errors import InputError

STDIN = "-"
MOST_BYTES = 16 << 20
MOST_PROMPTS = 10_000


def read_prompts(given: Sequence[str]) -> list[str]:
    """Return prompts with those of standard input, one a line, in the place of `-`.

    Raises:
        InputError: it is no UTF-8 text, too long, or says nothing.
    """
    if STDIN not in given:
        return list(given)
    if given.count(STDIN) > 1:
        raise typer.BadParameter("standard input is read once", param_hint="PROMPT")
    place = list(given).index(STDIN)
    return [*given[:place], *_lines(), *given[place + 1 :]]


def _lines() -> list[str]:
    if sys.stdin is None:
        raise InputError("standard input is closed: it holds no prompts")
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"standard input is longer than {MOST_BYTES} bytes: use `diffgraph batch`")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"standard input is no UTF-8 text: line {line}") from error
    prompts = [line for line in text.split("\n") if line.strip()]
    if not prompts:
        raise InputError("standard input holds no prompt")
    if len(prompts) > MOST_PROMPTS:
        told = f"standard input holds {len(prompts)} prompts, at most {MOST_PROMPTS} are read"
        raise InputError(f"{told}: use `diffgraph batch`")
    return prompts
