"""What do packages of other people add to our tables? Entry points, loaded when first looked up.

    [project.entry-points."diffgraph.baselines"]
    halves = "their_package:HALVES"

What cannot be loaded, and what takes a name of ours, is told in a line that names its package, and
left out; the rest goes on.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

from diffgraph.printable import printable_briefly

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
Value = TypeVar("Value")
Made = TypeVar("Made")


class Extension(NamedTuple):
    """What a package adds to a table, or why it does not."""

    name: str
    package: str
    value: Any
    problem: str = ""


class Extensible(Mapping[str, Value]):
    """A table of ours and, behind it, what packages add to it."""

    def __init__(
        self,
        group: str,
        built_in: Mapping[str, Value],
        refuse: Callable[[str, Any], str],
    ) -> None:
        """Look for nothing yet.

        Args:
            group: `baselines` for the entry points `diffgraph.baselines`.
            built_in: what is ours, by name: no package takes its place.
            refuse: (name, value) → why it cannot be used; empty if it can.
        """
        self.group, self.built_in, self._refuse = group, built_in, refuse
        self.extensions = once(self._extensions)

    def __getitem__(self, name: str) -> Value:
        return self.built_in[name] if name in self.built_in else self.added[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self.added

    def __len__(self) -> int:
        return len(self.built_in) + len(self.added)

    @property
    def added(self) -> dict[str, Value]:
        """What packages add and can be used, by name."""
        return {one.name: one.value for one in self.extensions() if not one.problem}

    def _extensions(self) -> tuple[Extension, ...]:
        """Return what packages add, by name, and tell what cannot be used."""
        used: dict[str, Extension] = {}
        refused = []
        entries = metadata.entry_points(group=f"diffgraph.{self.group}")
        for entry in sorted(entries, key=lambda entry: (entry.name, _package(entry))):
            one = self._loaded(entry)
            if one.name in used:
                one = one._replace(problem=f"{used[one.name].package} adds that name too")
            if not one.problem:
                used[one.name] = one
                continue
            refused.append(one)
            log.warning("%s of %s is left out of the %s: %s", *one[:2], self.group, one.problem)
        return (*used.values(), *refused)

    def _loaded(self, entry: metadata.EntryPoint) -> Extension:
        name, package = printable_briefly(entry.name), _package(entry)
        if name in self.built_in:
            return Extension(name, package, None, "the name is one of ours")
        if not NAME.fullmatch(name):
            return Extension(name, package, None, "a name is lower-case letters, digits and _")
        try:
            value = entry.load()
            problem = self._refuse(name, value)
            if (own := getattr(value, "name", name)) != name:
                problem = problem or f"it calls itself {own!r}"
        except (Exception, SystemExit) as error:  # a stranger's code may fail in any way
            value, problem = None, printable_briefly(f"{type(error).__name__}: {error}")
        return Extension(name, package, value, problem)


def once(make: Callable[[], Made]) -> Callable[[], Made]:
    """Return the function, such that it is called once, and again after `look_again`."""
    kept = cache(make)
    _KEPT.append(kept.cache_clear)
    return kept


def look_again() -> None:
    """Forget which packages there are: one was installed while this process runs."""
    for forget in _KEPT:
        forget()


_KEPT: list[Callable[[], None]] = []


def _package(entry: metadata.EntryPoint) -> str:
    """Return the name and version of the package that an entry point is of."""
    about = entry.dist
    return (
        printable_briefly(f"{about.name} {about.version}") if about else "a package without a name"
    )
