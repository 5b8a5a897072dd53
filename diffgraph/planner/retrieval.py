"""Which of very many experts might serve a prompt, or one phrase of it? Exact, in milliseconds.

Two questions, two measures, both over every expert there is:

* How much is this expert about this phrase? Similarity = 1 - (1 - cosine) (1 - w overlap²): what
  the text embedding leaves unexplained, the shared words may still explain. `overlap` is the share
  of the phrase's content words that the expert's name and card hold, each word counting the more
  the fewer experts use it. A sentence embedding alone misses short names ("noir", "24 karat"), and
  words alone miss other wordings ("graphite drawing").
* How relevant is this expert to the whole prompt? BM25 over name, trigger words and card, as a
  share of the best, plus the cosine to the nearest part of the prompt, plus up to 0.5 for a
  trigger word that the prompt says. Community prompts are long lists in which one rare trigger
  word says more than thirty common ones: rarity must decide.

The dense part is one product of the phrases with a matrix of all embeddings, the words are
postings lists: nothing is approximated. docs/performance.md says where an index would start to pay.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffgraph.agents.words import WORD, content_stems, joined, words
from diffgraph.experts.expert import Kind

TIMES_COUNT = (0.7, 0.9, 1.0)
"""How much a word counts that is said once, twice, thrice: in passing, or what it is all about."""
TRIGGER_COUNTS = 1.0  # a word that the card does not say, but that is to be written in a prompt
NAMED = 3.0  # a word of the name or a trigger word, in units of one in the text
SATURATION, LENGTH_MATTERS = 1.2, 0.3  # BM25's k1 and b; cards are of similar length
TRIGGER_TELLS = 0.5  # a trigger word nobody else has, in units of relevance
LONGEST_TRIGGER = 4  # words; what is longer is an example prompt rather than a trigger word
LEAST_EVIDENCE = 12.0  # of shared words, in BM25's units: below it nobody is the best for sure


class ExpertNodes(Protocol):
    """The experts a selection may choose from: the mergeable ones of one family."""

    @property
    def refs(self) -> Sequence[str]:
        """One reference an expert."""
        ...

    @property
    def kinds(self) -> Sequence[Kind]:
        """Checkpoint or PEFT."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """What the makers call them."""
        ...

    @property
    def trigger_words(self) -> Sequence[Sequence[str]]:
        """What the makers say to write in a prompt."""
        ...

    @property
    def texts(self) -> Sequence[str]:
        """Their cards' texts."""
        ...

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The texts' embeddings, unit vectors, (experts, 384)."""
        ...


class ExpertIndex:
    """The experts of a snapshot, ready to be searched; built once, asked for every prompt."""

    def __init__(self, nodes: ExpertNodes) -> None:
        self.nodes = nodes
        self.count = len(nodes.refs)
        if nodes.embeddings.shape[0] != self.count:
            raise ValueError(f"{self.count} experts, but {nodes.embeddings.shape[0]} embeddings")
        kinds = np.asarray(nodes.kinds)
        self._rows: dict[Kind, NDArray[np.intp]] = {
            "checkpoint": np.flatnonzero(kinds == "checkpoint"),
            "peft": np.flatnonzero(kinds == "peft"),
        }
        self._unused = math.log(1.0 + self.count)  # how much a word counts that no expert uses
        self._postings = _Postings(nodes)
        self._triggered = _by_trigger(nodes.trigger_words)

    def overlap(self, query: str) -> NDArray[np.float32]:
        """Return the weighted share of the query's words that each expert holds, (experts,)."""
        shared = np.zeros(self.count, dtype=np.float32)
        total = 0.0
        for stem in dict.fromkeys(_stems(query)):
            found = self._postings.of(stem)
            weight = self._unused
            if found is not None:
                rows, times, _ = found
                weight = math.log(1.0 + self.count / len(rows))
                shared[rows] += weight * times
            total += weight
        return shared / total if total else shared

    def evidence(self, prompt: str) -> NDArray[np.float32]:
        """Return the BM25 score of each expert's name, trigger words and card, (experts,)."""
        score = np.zeros(self.count, dtype=np.float32)
        for stem in dict.fromkeys(_stems(prompt)):
            found = self._postings.of(stem)
            if found is not None:
                rows, _, weights = found
                score[rows] += weights
        return score

    def addressed(self, prompt: str) -> NDArray[np.float32]:
        """Return how surely the prompt says a trigger word of each expert, in [0, 1], (experts,).

        The more experts share a trigger word, the less it tells.
        """
        told = np.zeros(self.count, dtype=np.float32)
        said = words(prompt)
        for size in range(1, LONGEST_TRIGGER + 1):
            for start in range(len(said) - size + 1):
                rows = self._triggered.get(said[start : start + size])
                if rows is not None:
                    rarity = math.log(1.0 + self.count / len(rows)) / self._unused
                    told[rows] = np.maximum(told[rows], rarity)
        return told

    def relevance(self, prompt: str, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how relevant each expert is to a whole prompt, in [0, 2.5], (experts,).

        Args:
            prompt: the prompt without weights, tags and what it asks to leave out.
            cosines: of the prompt's parts to the experts, (parts, experts).
        """
        evidence = self.evidence(prompt)
        best = max(float(evidence.max(initial=0.0)), LEAST_EVIDENCE)
        near: NDArray[np.float32] = np.clip(cosines.max(axis=0, initial=0.0), 0.0, 1.0)
        relevant: NDArray[np.float32] = (
            evidence / np.float32(best) + near + TRIGGER_TELLS * self.addressed(prompt)
        )
        return relevant

    def nearest(self, kind: Kind, similarity: NDArray[np.float32], count: int) -> list[int]:
        """Return the rows of one kind with the highest similarity, best first."""
        return self._best(self._rows[kind], similarity, count)

    def ranked(self, relevance: NDArray[np.float32], count: int) -> list[int]:
        """Return the rows of either kind with the highest relevance, best first."""
        return self._best(np.arange(self.count), relevance, count)

    def _best(
        self, rows: NDArray[np.intp], similarity: NDArray[np.float32], count: int
    ) -> list[int]:
        if count <= 0 or not len(rows):
            return []
        values = similarity[rows]
        if count < len(rows):
            least = np.partition(values, len(rows) - count)[len(rows) - count]
            near = np.flatnonzero(values >= least)  # with all that are as good as the last
            rows, values = rows[near], values[near]
        refs = self.nodes.refs
        order = sorted(range(len(rows)), key=lambda i: (-values[i], refs[int(rows[i])]))
        return [int(rows[i]) for i in order[:count]]

    def cosines(self, embedded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of texts and experts, (texts, experts): one matrix product."""
        return np.asarray(embedded @ self.nodes.embeddings.T, dtype=np.float32)

    def similarities(
        self, queries: Sequence[str], cosines: NDArray[np.float32], words_count: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return how near each expert is to each query, at most 1, and whether they share words.

        Args:
            queries: phrases.
            cosines: of the phrases and the experts, (queries, experts).
            words_count: in [0, 1], how much of what the embedding leaves open shared words
                explain.

        Returns:
            Two arrays of (queries, experts).
        """
        similar = np.clip(cosines, 0.0, 1.0)
        shares_words = np.zeros(similar.shape, dtype=bool)
        for row, query in enumerate(queries):
            overlap = self.overlap(query)
            held = np.flatnonzero(overlap)
            shares_words[row, held] = True
            similar[row, held] = 1.0 - (1.0 - similar[row, held]) * (
                1.0 - words_count * overlap[held] ** 2
            )
        return similar, shares_words


class _Postings:
    """Which experts use a word, how often, and how much that tells: lists, one after another."""

    def __init__(self, nodes: ExpertNodes) -> None:
        self._ids: dict[str, int] = {}
        rows: list[int] = []
        stems: list[int] = []
        said: list[bool] = []  # in the name or the text: a trigger word is not said, but written
        named: list[bool] = []
        for row, (name, triggers, text) in enumerate(
            zip(nodes.names, nodes.trigger_words, nodes.texts, strict=True)
        ):
            parts = ((name, True, True), (" ".join(triggers), False, True), (text, True, False))
            for part, is_said, is_named in parts:
                found = [self._ids.setdefault(stem, len(self._ids)) for stem in _stems(part)]
                stems += found
                rows += [row] * len(found)
                said += [is_said] * len(found)
                named += [is_named] * len(found)
        self._fill(len(nodes.refs), np.array(rows, dtype=np.int64),
                   np.array(stems, dtype=np.int64), np.array(said), np.array(named))  # fmt: skip

    def of(
        self, stem: str
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]] | None:
        """Return the experts that use a word, how much it counts there, and its BM25 scores."""
        place = self._ids.get(stem)
        if place is None:
            return None
        part = slice(self._starts[place], self._starts[place + 1])
        return self._rows[part], self._times[part], self._weights[part]

    def _fill(
        self,
        experts: int,
        rows: NDArray[np.int64],
        stems: NDArray[np.int64],
        said: NDArray[np.bool_],
        named: NDArray[np.bool_],
    ) -> None:
        """Make one entry of every word and expert, and weigh it."""
        pairs, entry = np.unique(stems * max(experts, 1) + rows, return_inverse=True)
        of_stem, of_row = np.divmod(pairs, max(experts, 1))

        def counted(which: NDArray[np.bool_]) -> NDArray[np.float64]:
            return np.bincount(entry, weights=which, minlength=len(pairs)).astype(np.float64)

        most = len(TIMES_COUNT)
        times = np.clip(counted(said), 0, most).astype(np.int64)
        self._times = np.array((TRIGGER_COUNTS, *TIMES_COUNT), dtype=np.float32)[times]
        self._rows = of_row.astype(np.int32)
        self._starts = np.searchsorted(of_stem, np.arange(len(self._ids) + 1))
        often = NAMED * np.minimum(counted(named), most) + np.minimum(counted(~named), most)
        lengths = np.bincount(of_row, weights=often, minlength=experts)
        usual = max(float(lengths.mean()), 1.0) if experts else 1.0
        users = np.diff(self._starts)[of_stem]
        rarity = np.log1p((experts - users + 0.5) / (users + 0.5))
        damping = SATURATION * (1.0 - LENGTH_MATTERS + LENGTH_MATTERS * lengths[of_row] / usual)
        self._weights = (rarity * often * (SATURATION + 1.0) / (often + damping)).astype(np.float32)


def _by_trigger(
    trigger_words: Sequence[Sequence[str]],
) -> dict[tuple[str, ...], NDArray[np.int32]]:
    """Return which experts have a trigger word, by the words it is made of."""
    found: dict[tuple[str, ...], list[int]] = {}
    for row, triggers in enumerate(trigger_words):
        phrases = {words(phrase) for trigger in triggers for phrase in trigger.split(",")}
        for phrase in phrases:
            if 0 < len(phrase) <= LONGEST_TRIGGER and any(map(content_stems, phrase)):
                found.setdefault(phrase, []).append(row)
    return {phrase: np.asarray(rows, dtype=np.int32) for phrase, rows in found.items()}


def _stems(text: str) -> Iterator[str]:
    """Yield the stems of a text's content words, each time they are said."""
    for word in WORD.findall(joined(text)):
        stems = _STEMS_OF.get(word)
        if stems is None:
            stems = _stems_of(word)
            if len(_STEMS_OF) < MOST_REMEMBERED:
                _STEMS_OF[word] = stems
        yield from stems


MOST_REMEMBERED = 500_000
_STEMS_OF: dict[str, tuple[str, ...]] = {}


def _stems_of(word: str) -> tuple[str, ...]:
    """Return a word's stem, and those of its parts where it is written `LikeThis`."""
    whole = tuple(content_stems(word))
    parts = "".join(f" {letter}" if letter.isupper() else letter for letter in word).split()
    if len(parts) == 1 or all(len(part) == 1 for part in parts):
        return whole
    found = {stem for part in parts if len(part) > 2 for stem in content_stems(part)}
    return (*whole, *sorted(found - set(whole)))
