"""What kind of thing is a subject? The broader word for it, by the nouns of a family's vocabulary.

A page says "vehicles" where a prompt says "ambulance". A language model knows that one is the
other; without one, a list of nouns does.
"""

from collections.abc import Iterable, Mapping

from diffgraph.agents.words import stem, words

_HEADS_OF_OTHERS = frozenset({"face", "head", "icon", "sign", "statue"})


class Nouns:
    """Nouns and their kinds.

    Args:
        by_kind: kind → its nouns, words and phrases. One of several kinds is of the first.
    """

    def __init__(self, by_kind: Mapping[str, Iterable[str]]) -> None:
        self._kinds: dict[str, str] = {}
        for kind, nouns in by_kind.items():
            for noun in nouns:
                self._kinds.setdefault(noun if " " in noun else stem(noun), kind)

    def __contains__(self, word: str) -> bool:
        return stem(word) in self._kinds

    def kinds_of(self, subject: str) -> tuple[str, ...]:
        """Return the broader words for what a subject names: `ambulance` → `vehicle`.

        The head of an English phrase is its last word, before what it comes "with": a "polar bear"
        is a bear. Two subjects joined by "and" may be of two kinds.
        """
        found = map(self._kind_of, subject.lower().split(" and "))
        return tuple(dict.fromkeys(kind for kind in found if kind))

    def _kind_of(self, phrase: str) -> str:
        found = words(phrase.split(" with ")[0].split(" of ")[0])
        if not found:
            return ""
        for start in (-3, -2):
            if len(found) >= -start and (kind := self._kinds.get(" ".join(found[start:]))):
                return kind
        kinds = [self._kinds.get(stem(word), "") for word in found]
        if found[-1] in _HEADS_OF_OTHERS and len(found) > 1:
            return "animal" if kinds[-2] == "animal" else kinds[-1]
        if not kinds[-1] and "person" in kinds:
            return "person"  # "man juggling", "woman in a lotus position"
        return kinds[-1]
