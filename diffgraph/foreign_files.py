"""How is a file opened that strangers may have put there?

In a folder from elsewhere anything can stand where a file should: a pipe, a device without an end,
a link that leads out of the folder or round in a circle, far more bytes than a page speaks of. What
is no plain file of a likely size is never opened, or refused before a byte of it is read. And a few
megabytes of JSON can be millions of values: they are counted before they are made.
"""

import codecs
import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pydantic_core import from_json

from diffgraph.errors import MissingInput

# a pipe that took a file's place between our look at it and our opening it must not hold us up
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_STRING = re.compile(rb'"[^"]*"')
MANY_VALUES = 1 << 20
FEW_BYTES = 1 << 20  # of JSON that cannot hold too many values
LONGEST_LINE = 1 << 20  # characters
LONGEST_REST = 64 << 20  # characters behind the longest line until its end
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_foreign(path: Path, most_bytes: int, inside: Path | None = None) -> BinaryIO:
    """Open a plain file that has at most so many bytes.

    Args:
        path: Where it is; links are followed.
        most_bytes: A larger one is refused. It may grow while it is read: read no more than that.
        inside: The folder that it must be in, links followed; anywhere by default.

    Raises:
        MissingInput: It is not there, is no plain file, is too large, lies outside, or cannot be
            read.
    """
    try:
        if inside is not None:
            path, named = path.resolve(strict=True), path
            if not path.is_relative_to(inside.resolve()):
                raise MissingInput(f"{named.name!r} lies outside of {inside.name}")
        _demand_plain(path, os.stat(path), most_bytes)  # opening a device may already do something
        file = open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS))
        try:
            _demand_plain(path, os.fstat(file.fileno()), most_bytes)
        except BaseException:
            file.close()
            raise
    except FileNotFoundError as error:
        raise MissingInput(f"{path.name!r} is missing") from error
    except RuntimeError as error:  # how Python tells of links that lead in a circle
        raise MissingInput(f"{path.name!r} is a link that leads in a circle") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise MissingInput(f"{path.name!r} is a link that leads in a circle") from error
        why = getattr(error, "strerror", None) or "its path cannot be used"
        raise MissingInput(f"{path.name!r} cannot be read: {why}") from error
    return file


def read_foreign(path: Path, most_bytes: int, inside: Path | None = None) -> bytes:
    """Return what a plain file of at most so many bytes holds.

    Raises:
        MissingInput: As `open_foreign` does.
    """
    with open_foreign(path, most_bytes, inside) as file:
        try:
            data = file.read(most_bytes + 1)
        except OSError as error:
            raise MissingInput(f"{path.name!r} cannot be read: {error.strerror}") from error
    if len(data) > most_bytes:
        raise _too_large(path, len(data), most_bytes)
    return data


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text, each with its end; of one that is too long, its beginning.

    So it is longer than `LONGEST_LINE`, by the quote that may be missing: as many are open or
    closed behind it as in the file.

    Raises:
        MissingInput: A line has no end in sight: this is no text, but a hole or another such thing.
    """
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
            quotes = came = 0
            while rest := file.readline(LONGEST_LINE):
                quotes, came = quotes + rest.count('"'), came + len(rest)
                if came > LONGEST_REST:
                    name = Path(str(file.name)).name
                    raise MissingInput(f"{name!r} has a line of more than {came} characters")
                if rest.endswith(("\n", "\r")):
                    break
            line += '"' * (quotes % 2) + "\n" if came else ""
        yield line


def parse_json(
    data: bytes,
    most_values: int,
    make_object: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return what JSON says, if it has about so many values at most.

    Args:
        data: The text, in UTF-8.
        most_values: A value takes up to 200 bytes of memory.
        make_object: Makes objects of their pairs; by default a dict.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds too many values.
    """
    if len(data) > FEW_BYTES:
        bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        are_many = bare.count(b'"') > 4 * most_values  # taking that many texts out costs as much
        bare = b"" if are_many else _STRING.sub(b"", bare)
        if are_many or sum(map(bare.count, (b"{", b"[", b","))) > most_values:
            raise ValueError(f"it holds more than {most_values} values")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=make_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_strict(data: bytes | str, most_values: int = MANY_VALUES) -> Any:
    """Return what JSON says that is to be obeyed, or written on: a plan, a configuration, a record.

    Args:
        data: The text.
        most_values: As `parse_json` takes it.

    Raises:
        ValueError: As `parse_json` says; or it is nested more than 200 deep, says one name twice,
            or holds NaN, half a character, or a number too large under a name.
    """
    if isinstance(data, str):
        data = data.encode()  # half a character has no bytes
    data = data.removeprefix(codecs.BOM_UTF8)
    found = parse_json(data, most_values, _unambiguous)
    from_json(data, allow_inf_nan=False, cache_strings="none")  # stricter, also on how deep it is
    return found


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    for name, value in pairs:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name[:80]!r} is no finite number")
    return found


def _demand_plain(path: Path, about: os.stat_result, most_bytes: int) -> None:
    kind = stat.S_IFMT(about.st_mode)
    if kind != stat.S_IFREG:
        raise MissingInput(f"{path.name!r} is {_KINDS.get(kind, 'something else')}, not a file")
    if about.st_size > most_bytes:
        raise _too_large(path, about.st_size, most_bytes)


def _too_large(path: Path, size: int, most_bytes: int) -> MissingInput:
    return MissingInput(f"{path.name!r} has {size} bytes, expected {most_bytes} at most")
