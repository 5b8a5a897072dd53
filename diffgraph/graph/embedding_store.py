"""Which texts have been embedded before? Their vectors, kept so that none is computed twice.

One line a text in `embeddings/vectors.jsonl`: the hash of the text and of the model, and 384
little-endian float32 in base64. What was computed is kept every few hundred texts, so that a run
that is killed goes on where it was.
"""

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffgraph.experts.line_store import LineStore
from diffgraph.graph.embedding import DIMENSION, MODEL, TextEmbedder

log = logging.getLogger(__name__)

TOGETHER = 256  # texts that are computed and kept at once


class EmbeddingStore:
    """The vectors of texts below a home folder; any number of processes may share it.

    Args:
        folder: `embeddings` below the home folder.
    """

    def __init__(self, folder: Path) -> None:
        self._lines = LineStore(folder / "vectors.jsonl")

    def __contains__(self, text: str) -> bool:
        """Return whether a text's vector is kept."""
        return _key(text) in self._lines

    def embed(
        self,
        texts: Sequence[str],
        embedder: TextEmbedder,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[NDArray[np.float32], int]:
        """Return one unit vector a text, (texts, 384), and how many had to be computed.

        Args:
            texts: any number, also repeated.
            embedder: computes those that are not kept.
            on_progress: called with the number of those that are computed so far.

        Raises:
            StorageError: the vectors cannot be kept.
        """
        found = {text: self._find(text) for text in dict.fromkeys(texts)}
        # of similar length together: nothing is spent on padding
        missing = sorted((text for text, vector in found.items() if vector is None), key=len)
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            vectors = embedder.embed(part)
            self._lines.put(
                (_key(text), _written(vector)) for text, vector in zip(part, vectors, strict=True)
            )
            found.update(zip(part, vectors, strict=True))
            if on_progress is not None:
                on_progress(start + len(part))
        result = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            result[row] = found[text]
        return result, len(missing)

    def _find(self, text: str) -> NDArray[np.float32] | None:
        line = self._lines.get(_key(text))
        if line is None:
            return None
        try:
            vector = np.frombuffer(base64.b64decode(json.loads(line)), dtype="<f4")
        except (ValueError, TypeError, binascii.Error):
            vector = np.zeros(0, dtype="<f4")
        if vector.shape == (DIMENSION,) and abs(float(vector @ vector) - 1.0) < 1e-3:
            return vector.astype(np.float32)
        log.warning("%s: a vector is damaged and is computed again", self._lines.path)
        return None


def _key(text: str) -> str:
    return hashlib.sha256(f"{MODEL}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _written(vector: NDArray[np.float32]) -> str:
    return json.dumps(base64.b64encode(vector.astype("<f4").tobytes()).decode())
