r"""Which modules does a pattern in an adapter's configuration mean?

PEFT runs these as regular expressions, a stranger's too, and some take for ever. Here all the
places that a match can have reached are kept together, one bit each: nothing is tried twice, and a
pattern costs its length times the name's. What is understood is what people write: names, `.`,
classes, `\d`, `\w`, groups, `|`, `?`, `*`, `+`, `^` and `$`, no repetition within a repetition.
https://huggingface.co/docs/peft/package_reference/lora
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

MAX_LENGTH = 200  # characters of a pattern that is more than a name
MAX_DEPTH = 10  # groups within groups
MAX_TOGETHER = 1000  # characters of all of them
PLAIN = re.compile(r"\^?[\w.-]*")
ESCAPED = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
}

Places = int
"""Bit i: the i-th character comes next."""


class _Name:
    """Where a name has which characters."""

    def __init__(self, text: str) -> None:
        self.end: Places = 1 << len(text)
        self._by_character: dict[str, Places] = {}
        for place, character in enumerate(text):
            known = self._by_character.get(character, 0)
            self._by_character[character] = known | 1 << place

    def of(self, characters: frozenset[str]) -> Places:
        """Return the places of some characters."""
        if len(characters) == 1:
            return self._by_character.get(next(iter(characters)), 0)
        found = (at for known, at in self._by_character.items() if known in characters)
        return reduce(or_, found, 0)


Step = Callable[[_Name, Places], Places]
"""Where a match can be behind a part of the pattern, by where it can be before."""


class NamePatterns:
    """An adapter's patterns, in the order in which they are tried.

    What is not understood is taken for a name as it stands, and so is what is too long.

    Raises:
        ValueError: so many are more than names that looking for them could take minutes.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._plain: dict[str, int] = {}
        self._strange: list[tuple[int, Step]] = []
        length = 0
        for place, pattern in enumerate(patterns):
            step = None
            if not PLAIN.fullmatch(pattern) and (step := _compiled(pattern)):
                self._strange.append((place, step))
                length += len(pattern)
            if step is None:
                self._plain.setdefault(pattern, place)
        if length > MAX_TOGETHER:
            raise ValueError(f"{length} characters of patterns, at most {MAX_TOGETHER} are read")

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
        if self._strange:
            text = _Name(name)
            starts = 1 | text.of(frozenset(".")) << 1
            for place, step in self._strange:
                if step(text, starts) & text.end:
                    yield place


def _compiled(pattern: str) -> Step | None:
    try:
        return _Parser(pattern).whole()
    except ValueError:
        return None


class _Parser:
    """Reads a pattern from left to right; raises ValueError where it is more than we know."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_LENGTH:
            raise ValueError("too long")
        self._left = list(reversed(pattern))
        self._depth = 0
        self._loops = 0

    def whole(self) -> Step:
        step = self._alternatives()
        if self._left:
            raise ValueError("a group is closed that was not opened")
        return step

    def _next(self) -> str:
        if not self._left:
            raise ValueError("it ends too early")
        return self._left.pop()

    def _takes(self, wanted: str) -> bool:
        if self._left[: -len(wanted) - 1 : -1] != list(wanted):
            return False
        del self._left[-len(wanted) :]
        return True

    def _alternatives(self) -> Step:
        branches = [self._sequence()]
        while self._takes("|"):
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        return lambda name, at: reduce(or_, (branch(name, at) for branch in branches))

    def _sequence(self) -> Step:
        steps = []
        while self._left and self._left[-1] not in "|)":
            steps.append(self._repeated())
        return lambda name, at: reduce(lambda places, step: step(name, places), steps, at)

    def _repeated(self) -> Step:
        loops = self._loops
        step = self._atom()
        mark = self._next() if self._left and self._left[-1] in "?*+" else ""
        if not mark:
            return step
        self._takes("?")  # whether it prefers few does not matter to whether it fits
        if mark == "?":
            return lambda name, at: at | step(name, at)
        if self._loops != loops:
            raise ValueError("a repetition within a repetition")
        self._loops += 1
        return _again(step) if mark == "*" else lambda name, at: _again(step)(name, step(name, at))

    def _atom(self) -> Step:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "^":
            return lambda _, at: at & 1
        if character == "$":
            return lambda name, at: at & name.end
        if character == ".":
            return lambda name, at: (at & (name.end - 1)) << 1
        if character == "[":
            return self._class()
        if character in "*+?{}])|":
            raise ValueError("nothing to repeat, or a repetition by numbers")
        return _one_of(self._escaped() if character == "\\" else frozenset(character))

    def _group(self) -> Step:
        if not self._takes("?:") and self._left[-1:] == ["?"]:
            raise ValueError("a group that looks around")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("too deep")
        step = self._alternatives()
        if self._next() != ")":
            raise ValueError("a group is not closed")
        self._depth -= 1
        return step

    def _class(self) -> Step:
        inverted, found = self._takes("^"), set[str]()
        while not self._takes("]"):
            character = self._next()
            if character == "\\":
                found |= self._escaped()
            elif character in "[-":
                raise ValueError("a class that is written strangely")
            elif self._takes("-"):
                found |= _between(character, self._next())
            else:
                found.add(character)
        if not found:
            raise ValueError("an empty class")
        one = _one_of(frozenset(found))
        if not inverted:
            return one
        return lambda name, at: (at & (name.end - 1)) << 1 & ~one(name, at)

    def _escaped(self) -> frozenset[str]:
        character = self._next()
        if character in ESCAPED:
            return ESCAPED[character]
        if character.isalnum():
            raise ValueError("an escape that means something else")
        return frozenset(character)


def _one_of(characters: frozenset[str]) -> Step:
    return lambda name, at: (at & name.of(characters)) << 1


def _again(step: Step) -> Step:
    """Return any number of a step, none too."""

    def places(name: _Name, at: Places) -> Places:
        seen = new = at
        while new:
            new = step(name, new) & ~seen
            seen |= new
        return seen

    return places


def _between(first: str, last: str) -> set[str]:
    if not (first.isascii() and last.isascii() and first.isalnum() and last.isalnum()):
        raise ValueError("a strange range")
    return {chr(code) for code in range(ord(first), ord(last) + 1)}
