"""Which of very many experts might serve a phrase? Near in meaning, or named by the same words.

Similarity = 1 - (1 - cosine) (1 - w overlap²): what the text embedding leaves unexplained, the
shared words may still explain. `overlap` is the share of the phrase's content words that the
expert's name and card hold, each word counting the more the fewer experts use it. A sentence
embedding alone misses short names ("noir", "24 karat"), and words alone miss other wordings
("graphite drawing").
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffgraph.agents.words import content_counts, content_stems
from diffgraph.experts.expert import Kind

TIMES_COUNT = (0.7, 0.9, 1.0)
"""How much a word counts that is said once, twice, thrice: in passing, or what it is all about."""


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
        count = len(nodes.refs)
        if nodes.embeddings.shape[0] != count:
            raise ValueError(f"{count} experts, but {nodes.embeddings.shape[0]} embeddings")
        kinds = np.asarray(nodes.kinds)
        self._rows: dict[Kind, NDArray[np.intp]] = {
            "checkpoint": np.flatnonzero(kinds == "checkpoint"),
            "peft": np.flatnonzero(kinds == "peft"),
        }
        rows_of: dict[str, list[int]] = defaultdict(list)
        times: dict[str, list[int]] = defaultdict(list)
        for row, (name, text) in enumerate(zip(nodes.names, nodes.texts, strict=True)):
            for stem, count_here in content_counts(f"{name} {text}").items():
                rows_of[stem].append(row)
                times[stem].append(min(count_here, len(TIMES_COUNT)))
        self._rows_of = {stem: np.asarray(rows, dtype=np.intp) for stem, rows in rows_of.items()}
        self._parts_of = {
            stem: np.asarray(TIMES_COUNT, dtype=np.float32)[np.asarray(found) - 1]
            for stem, found in times.items()
        }
        self._unused = math.log(1.0 + count)  # how much a word counts that no expert uses

    def overlap(self, query: str) -> NDArray[np.float32]:
        """Return the weighted share of the query's words that each expert holds, (experts,)."""
        shared = np.zeros(len(self.nodes.refs), dtype=np.float32)
        total = 0.0
        for stem in content_stems(query):
            rows = self._rows_of.get(stem)
            weight = self._unused
            if rows is not None:
                weight = math.log(1.0 + len(shared) / len(rows))
                shared[rows] += weight * self._parts_of[stem]
            total += weight
        return shared / total if total else shared

    def nearest(self, kind: Kind, similarity: NDArray[np.float32], count: int) -> list[int]:
        """Return the rows of one kind with the highest similarity, best first."""
        rows = self._rows[kind]
        if count <= 0 or not len(rows):
            return []
        values = similarity[rows]
        if count < len(rows):
            near = np.argpartition(-values, count - 1)[:count]
            rows, values = rows[near], values[near]
        refs = self.nodes.refs
        order = sorted(range(len(rows)), key=lambda i: (-values[i], refs[int(rows[i])]))
        return [int(rows[i]) for i in order]

    def similarities(
        self, queries: Sequence[str], embedded: NDArray[np.float32], words_count: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return how near each expert is to each query, at most 1, and whether they share words.

        Args:
            queries: phrases.
            embedded: their embeddings, unit vectors, (queries, 384).
            words_count: in [0, 1], how much of what the embedding leaves open shared words
                explain.

        Returns:
            Two arrays of (queries, experts).
        """
        similar = np.clip(embedded @ self.nodes.embeddings.T, 0.0, 1.0)
        shares_words = np.zeros(similar.shape, dtype=bool)
        for row, query in enumerate(queries):
            overlap = self.overlap(query)
            shares_words[row] = overlap > 0
            similar[row] = 1.0 - (1.0 - similar[row]) * (1.0 - words_count * overlap**2)
        return similar, shares_words
