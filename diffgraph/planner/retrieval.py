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

from diffgraph.agents.words import content_stems
from diffgraph.experts.expert import Kind


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
        for row, (name, text) in enumerate(zip(nodes.names, nodes.texts, strict=True)):
            for stem in content_stems(f"{name} {text}"):
                rows_of[stem].append(row)
        self._rows_of = {stem: np.asarray(rows, dtype=np.intp) for stem, rows in rows_of.items()}
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
                shared[rows] += weight
            total += weight
        return shared / total if total else shared

    def nearest(
        self, kind: Kind, similarity: NDArray[np.float32], count: int
    ) -> list[tuple[int, float]]:
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
        return [(int(rows[i]), float(values[i])) for i in order]

    def similarities(
        self, queries: Sequence[str], embedded: NDArray[np.float32], words_count: float
    ) -> NDArray[np.float32]:
        """Return how near each expert is to each query, (queries, experts), at most 1.

        Args:
            queries: phrases.
            embedded: their embeddings, unit vectors, (queries, 384).
            words_count: in [0, 1], how much of what the embedding leaves open shared words
                explain.
        """
        cosine = embedded @ self.nodes.embeddings.T
        np.clip(cosine, 0.0, 1.0, out=cosine)
        for row, query in enumerate(queries):
            overlap = self.overlap(query)
            cosine[row] = 1.0 - (1.0 - cosine[row]) * (1.0 - words_count * overlap**2)
        return cosine
