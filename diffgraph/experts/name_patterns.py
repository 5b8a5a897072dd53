"""Which modules does a pattern in an adapter's configuration mean?

PEFT runs these as regular expressions, untrusted ones too, and some never end. RE2 takes time in
proportion to the name's length whatever the pattern, and memory as far as it is allowed.
https://huggingface.co/docs/peft/package_reference/lora
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import re2

MAX_MEMORY = 1 << 20  # bytes of a compiled pattern
MAX_TOGETHER = 5_000  # characters of all that are more than names
MAX_SHAPES = 100  # of names of one length: where their dots are
PLAIN = re.compile(r"\^?[\w.-]*")
"""A name, as it is or from the start: it is looked up and not searched for; files have hundreds.
Its dots stand for any character, as in every pattern."""

Dots = tuple[int, ...]  # where a text has dots that stand for any character


class NamePatterns:
    """An adapter's patterns, in the order in which they are tried.

    One that RE2 does not understand (it looks around, refers back or is damaged) is taken for a
    name as it stands, and so is one that is too large.

    Raises:
        ValueError: so many are more than names, or names with dots at different places, that
            looking for them could take minutes.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._plain: dict[tuple[Dots, str], int] = {}
        self._shapes: dict[int, set[Dots]] = {}
        self._compiled: list[tuple[int, Any]] = []
        strange = [pattern for pattern in patterns if not PLAIN.fullmatch(pattern)]
        length = sum(map(len, strange))
        if length > MAX_TOGETHER:
            raise ValueError(f"{length} characters of patterns, at most {MAX_TOGETHER} are read")
        for place, pattern in enumerate(patterns):
            is_plain = PLAIN.fullmatch(pattern) is not None
            compiled = None if is_plain else _compiled(pattern)
            if compiled is not None:
                self._compiled.append((place, compiled))
                continue
            dots = tuple(at for at, sign in enumerate(pattern) if is_plain and sign == ".")
            self._plain.setdefault((dots, pattern), place)
            shapes = self._shapes.setdefault(len(pattern), set())
            shapes.add(dots)
            if len(shapes) > MAX_SHAPES:
                raise ValueError(
                    f"names of {len(pattern)} characters have dots at more than {MAX_SHAPES} places"
                )

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first pattern that means a module by one of its names.

        It must be the whole of the name, or what follows a dot of it.
        """
        found = [place for name in names for place in self._places(name)]
        return self._patterns[min(found)] if found else None

    def _places(self, name: str) -> Iterator[int]:
        parts = name.split(".")
        endings = [".".join(parts[start:]) for start in range(len(parts))]
        for ending in (f"^{name}", *endings):
            for dots in self._shapes.get(len(ending), ()):
                place = self._plain.get((dots, _dotted(ending, dots)))
                if place is not None:
                    yield place
        for place, compiled in self._compiled:
            if compiled.fullmatch(name):
                yield place
                return  # the others come later


def _dotted(text: str, dots: Dots) -> str:
    """Return a text with dots at these places: equal to every pattern of that shape that fits."""
    signs = list(text)
    for at in dots:
        if signs[at] != "^":  # not of the name: it says that the whole of it is looked up
            signs[at] = "."
    return "".join(signs)


def _compiled(pattern: str) -> Any | None:
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(rf"(.*\.)?({pattern})", options)
    except re2.error:
        return None
