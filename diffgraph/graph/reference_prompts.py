"""On which prompts is every expert measured? Few, rich in language, and unlike each other.

The paper (https://arxiv.org/abs/2603.20470, section 3.1) ranks candidate prompts by their nouns,
prepositions and adjectives and keeps the most representative ones; neither it nor the work it
follows (https://arxiv.org/abs/2412.01243) publishes how. This is a reconstruction:

1. Filter: candidates are streamed, cleaned, and of very many a fair sample is kept (candidates.py).
2. Rank: how many distinct nouns, adjectives and prepositions a prompt has, as logarithms, each less
   what prompts of its length have on average, in units of the spread, summed. Length alone earns
   nothing. The better half goes on.
3. Cover: take prompts one by one; each time the one whose words are rarest and least covered so
   far. Where several are as good, the one farthest from all taken ones in embedding space.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from diffgraph.errors import InputError
from diffgraph.graph.candidates import FEWEST_WORDS, MOST_WORDS, identity, usable
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.graph.parts_of_speech import TaggedText, tag

log = logging.getLogger(__name__)

LARGEST_POOL = 2_000  # candidates that are embedded and compared
SHARE_RANKED = 0.5  # of the candidates that ranking lets through
TOO_ALIKE = 0.95  # cosine of two prompts that would measure the same
AS_GOOD = 0.95  # of the best gain: near enough to let distance decide
WORN = 0.5  # what a word still counts each time it has been covered
FEATURES = ("nouns", "adjectives", "prepositions")


class ReferencePrompt(BaseModel, frozen=True):
    """A prompt that every expert is measured on, with the seed of its noise."""

    id: str
    text: str
    seed: int = Field(ge=0)
    features: dict[str, float] = Field(
        default_factory=dict, description="counts of nouns, adjectives, prepositions, words; rank"
    )


def choose(
    candidates: Iterable[str],
    count: int,
    *,
    exclude: Collection[str] = (),
    seed: int = 0,
    embedder: TextEmbedder | None = None,
) -> list[ReferencePrompt]:
    """Return the `count` most representative candidates, in the order they were chosen.

    The same arguments give the same prompts. If there are fewer usable candidates, all are
    returned. Candidates are read once: millions can be streamed from a file.

    Args:
        candidates: texts; unusable and repeated ones are passed over.
        count: how many are wanted.
        exclude: texts that must not be chosen, however they are spaced or capitalised: what the
            planner is trained and tested on.
        seed: the prompts' noise depends on it.
        embedder: measures distance; a new one if None.

    Raises:
        InputError: no candidate is usable.
    """
    texts, looked_at = usable(candidates, exclude)
    if not texts:
        raise InputError(
            f"none of {looked_at} candidate prompts is usable: each is excluded or has not"
            f" {FEWEST_WORDS} to {MOST_WORDS} words"
        )
    ranks = rank([tag(text).features for text in texts])
    pool = _better(texts, ranks, count)
    vectors = (embedder or TextEmbedder()).embed([texts[row] for row in pool])
    tags = [tag(texts[row]) for row in pool]
    taken = _cover(tags, ranks[pool], vectors, count)
    if len(taken) < count:
        log.warning("only %d of %d reference prompts: too few candidates", len(taken), count)
    return [
        _reference(texts[pool[place]], tags[place], float(ranks[pool[place]]), seed)
        for place in taken
    ]


def _better(texts: Sequence[str], ranks: NDArray[np.float64], count: int) -> list[int]:
    """Return the better half of the candidates, best first; of too many, a fair sample of it."""
    size = max(4 * count, int(SHARE_RANKED * len(texts)))
    better = sorted(range(len(texts)), key=lambda row: (-ranks[row], texts[row]))[:size]
    largest = max(LARGEST_POOL, 4 * count)
    if len(better) > largest:
        sample = sorted(better, key=lambda row: hashlib.sha256(texts[row].encode()).digest())
        kept = set(sample[:largest])
        better = [row for row in better if row in kept]
    return better


def _reference(text: str, tagged: TaggedText, rank: float, seed: int) -> ReferencePrompt:
    return ReferencePrompt(
        id=hashlib.sha256(identity(text).encode()).hexdigest()[:12],
        text=text,
        seed=_seed(seed, text),
        features={**tagged.features, "rank": round(rank, 4)},
    )


def rank(features: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Return how rich each prompt is in words of the three classes for its length, (prompts,)."""
    length = np.log1p([found["words"] for found in features])
    total = np.zeros(len(features))
    for name in FEATURES:
        counts = np.log1p([found[name] for found in features])
        left = counts - _expected(length, counts)
        spread = left.std()
        if spread > 1e-9:
            total += left / spread
    return total


def _expected(length: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares line of counts over length, at each length."""
    centred = length - length.mean()
    power = float(centred @ centred)
    slope = float(centred @ (counts - counts.mean())) / power if power > 1e-9 else 0.0
    return np.asarray(counts.mean() + slope * centred)


def _cover(
    tags: Sequence[TaggedText],
    ranks: NDArray[np.float64],
    vectors: NDArray[np.float32],
    count: int,
) -> list[int]:
    """Return `count` places that together cover most: greedy, farthest first among equals."""
    holders = Counter(term for tagged in tags for term in tagged.terms)
    places = {term: place for place, term in enumerate(sorted(holders))}
    holds = np.zeros((len(tags), len(places)), dtype=np.float32)
    for row, tagged in enumerate(tags):
        holds[row, [places[term] for term in tagged.terms]] = 1.0
    rarity = np.log1p([len(tags) / holders[term] for term in sorted(holders)]).astype(np.float32)
    # a prompt twice as long is not worth twice as much
    sizes = np.sqrt(np.maximum(holds.sum(axis=1), 1.0))
    open_rows = np.ones(len(tags), dtype=bool)
    nearest = np.full(len(tags), -1.0, dtype=np.float32)  # cosine to the nearest taken one
    taken: list[int] = []
    while len(taken) < count and open_rows.any():
        gains = np.where(open_rows, holds @ rarity / sizes, -np.inf)
        rows = np.flatnonzero(gains >= AS_GOOD * gains.max())
        best = int(min(rows, key=lambda row: (round(float(nearest[row]), 5), -ranks[row], row)))
        taken.append(best)
        rarity[holds[best] > 0] *= WORN
        nearest = np.maximum(nearest, vectors @ vectors[best])
        open_rows &= nearest < TOO_ALIKE
    return taken


def _seed(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:4], "big") >> 1
