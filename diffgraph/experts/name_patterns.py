"""Which modules does a pattern in an adapter's configuration mean?

PEFT runs these as regular expressions, a stranger's too, and some take for ever. RE2 takes time in
proportion to the name's length whatever the pattern, and memory as far as it is allowed.
https://huggingface.co/docs/peft/package_reference/lora
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import re2

MAX_MEMORY = 1 << 20  # bytes of a compiled pattern
MAX_TOGETHER = 5_000  # characters of all that are more than names
PLAIN = re.compile(r"\^?[\w.-]*")
"""A name, as it is or from the start: it is looked up and not searched for; files have hundreds."""


class NamePatterns:
    """An adapter's patterns, in the order in which they are tried.

    One that RE2 does not understand (it looks around, refers back or is damaged) is taken for a
    name as it stands, and so is one that is too large.

    Raises:
        ValueError: so many are more than names that looking for them could take minutes.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._plain: dict[str, int] = {}
        self._compiled: list[tuple[int, Any]] = []
        strange = [pattern for pattern in patterns if not PLAIN.fullmatch(pattern)]
        length = sum(map(len, strange))
        if length > MAX_TOGETHER:
            raise ValueError(f"{length} characters of patterns, at most {MAX_TOGETHER} are read")
        for place, pattern in enumerate(patterns):
            compiled = None if PLAIN.fullmatch(pattern) else _compiled(pattern)
            if compiled is None:
                self._plain.setdefault(pattern, place)
            else:
                self._compiled.append((place, compiled))

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
            if ending in self._plain:
                yield self._plain[ending]
        for place, compiled in self._compiled:
            if compiled.fullmatch(name):
                yield place
                return  # the others come later


def _compiled(pattern: str) -> Any | None:
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(rf"(.*\.)?({pattern})", options)
    except re2.error:
        return None
