"""Which expert does a person mean? By reference, or by what its page or its file is called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from heapq import nlargest
from itertools import pairwise

from diffgraph.agents.words import plain
from diffgraph.errors import InputError

MOST_SHOWN = 3
MOST_COMPARED = 30  # names, letter by letter
LONGEST_SHOWN = 80  # letters of a name
LONGEST_COMPARED = 200
ALIKE = 0.4  # `difflib`'s ratio, from which a name may have been meant
SEPARATORS = re.compile(r"[\s_]+")
FILE_ENDING = re.compile(r"\.safetensors$", re.I)


@dataclass(frozen=True)
class ExpertNames:
    """What experts are called, those that can be merged and those that cannot."""

    names: Mapping[str, Sequence[str]]
    """Reference → what it is called: its page's name first, then its file's, if any."""
    unusable: Mapping[str, str]
    """Reference → why it cannot be merged; all others can."""

    def find(self, text: str, may_be_unusable: bool = False) -> str:
        """Return the reference of the one expert that is meant.

        A whole name counts before the beginning of one, an expert that can be merged before one
        that cannot. Capitals make no difference, nor does `_` instead of a space.

        Raises:
            InputError: nobody is called so, several are, or the one who is cannot be merged.
        """
        found = self._called(text)
        usable = [ref for ref in found if ref not in self.unusable]
        matches = usable or found
        if len(matches) > 1:
            told = ", ".join(map(self.told, matches[:MOST_SHOWN]))
            more = f" and {len(matches) - MOST_SHOWN} more" if len(matches) > MOST_SHOWN else ""
            raise InputError(f"{_shown(text)} may be {told}{more}: name one by its reference")
        if not matches:
            near = self._nearest(text)
            told = f"; near to it: {', '.join(near)}" if near else ""
            raise InputError(f"no expert is called {_shown(text)}{told}")
        (ref,) = matches
        if not usable and not may_be_unusable:
            raise InputError(f"{self.told(ref)} cannot be merged: {self.unusable[ref]}")
        return ref

    def told(self, ref: str) -> str:
        """Return an expert's name and reference."""
        return f"{plain(self.names[ref][0], LONGEST_SHOWN)} ({ref})"

    def _called(self, text: str) -> list[str]:
        """Return who is called so, or else whose name begins so."""
        if text in self.names:
            return [text]
        key = _key(text)
        if key in self._by_key:
            return self._by_key[key]
        begun = {
            ref: None
            for name, refs in self._by_key.items()
            if key and name.startswith(key)
            for ref in refs
        }
        return list(begun)

    def _nearest(self, text: str) -> list[str]:
        """Return the names of experts that can be merged and are written much like a text."""
        key = _key(text)[:LONGEST_COMPARED]
        within = [name for name in self._usable if len(key) > 2 and key in name]
        pairs = _pairs(key)
        # to compare all letters of all names would take seconds where there are thousands
        likely = nlargest(MOST_COMPARED, self._usable, key=lambda name: self._shared(name, pairs))
        alike = get_close_matches(key, likely, MOST_SHOWN, ALIKE)
        refs = dict.fromkeys(self._usable[name] for name in (*within, *alike))
        return [plain(self.names[ref][0], LONGEST_SHOWN) for ref in refs][:MOST_SHOWN]

    def _shared(self, name: str, pairs: frozenset[str]) -> float:
        """Return which share of the letters in a row two names have in common."""
        own = self._pairs[name]
        return len(own & pairs) / (len(own | pairs) or 1)

    @cached_property
    def _pairs(self) -> dict[str, frozenset[str]]:
        return {name: _pairs(name) for name in self._usable}

    @cached_property
    def _usable(self) -> dict[str, str]:
        """Who can be merged, by each name as it is compared; the first of several."""
        found = ((name, [one for one in refs if one not in self.unusable])
                 for name, refs in self._by_key.items())  # fmt: skip
        return {name: refs[0] for name, refs in found if refs}

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for ref, names in self.names.items():
            for key in {key for name in names for key in _keys(name)} - {""}:
                found.setdefault(key, []).append(ref)
        return found


def _pairs(name: str) -> frozenset[str]:
    return frozenset(map("".join, pairwise(name)))


def _keys(name: str) -> tuple[str, ...]:
    """Return a name as it is compared; a file's with its folders and without them."""
    is_file = FILE_ENDING.search(name.strip())
    return (_key(name), _key(name.rpartition("/")[2])) if is_file else (_key(name),)


def _key(name: str) -> str:
    """Return a name as it is compared, a file's without its ending."""
    return SEPARATORS.sub(" ", FILE_ENDING.sub("", name.strip())).casefold().strip()


def _shown(text: str) -> str:
    return repr(plain(text, LONGEST_SHOWN))
