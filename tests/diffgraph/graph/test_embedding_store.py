"""No text is embedded twice, whatever happens to the run that did it."""

import json

import numpy as np
import pytest

from diffgraph.errors import StorageError
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.graph.embedding_store import TOGETHER, EmbeddingStore

TEXTS = ["a neon fox", "glass", "ein Fuchs im Schnee, sehr fein gezeichnet", "glass", "🦊"]


class CountingEmbedder(TextEmbedder):
    """The real thing, counting what it computes; it can break down."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[str] = []
        self.breaks_after = 10**9

    def embed(self, texts):
        if len(self.computed) + len(texts) > self.breaks_after:
            raise StorageError("the machine is on fire")
        self.computed += texts
        return super().embed(texts)


class CheapEmbedder(CountingEmbedder):
    """Unit vectors that differ, without a model: for thousands of texts."""

    def embed(self, texts):
        if len(self.computed) + len(texts) > self.breaks_after:
            raise StorageError("the machine is on fire")
        self.computed += texts
        vectors = np.stack([np.random.default_rng(len(t)).normal(size=384) for t in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def embedder():
    return CountingEmbedder()


def test_vectors_are_those_of_the_model_and_computed_once(embedder, tmp_path):
    embedder.computed.clear()
    store = EmbeddingStore(tmp_path / "embeddings")
    assert "glass" not in store
    vectors, computed = store.embed(TEXTS, embedder)
    np.testing.assert_allclose(vectors, TextEmbedder.embed(embedder, TEXTS), atol=1e-6)
    assert (computed, sorted(embedder.computed)) == (4, sorted(set(TEXTS)))
    assert "glass" in store
    again, computed = EmbeddingStore(tmp_path / "embeddings").embed(TEXTS[::-1], embedder)
    np.testing.assert_array_equal(again, vectors[::-1])  # the same bits: so is the snapshot's id
    assert (computed, len(embedder.computed)) == (0, 4)


def test_nothing_to_embed(embedder, tmp_path):
    vectors, computed = EmbeddingStore(tmp_path).embed([], embedder)
    assert (vectors.shape, computed) == ((0, 384), 0)
    assert not list(tmp_path.iterdir())


def test_a_run_that_breaks_keeps_what_was_computed(tmp_path):
    texts = ["x" * number for number in range(1, 2 * TOGETHER + 50)]
    cheap = CheapEmbedder()
    cheap.breaks_after = TOGETHER
    with pytest.raises(StorageError, match="on fire"):
        EmbeddingStore(tmp_path).embed(texts, cheap)
    cheap.breaks_after = 10**9
    told = []
    vectors, computed = EmbeddingStore(tmp_path).embed(texts, cheap, told.append)
    assert computed == len(texts) - TOGETHER == told[-1]
    np.testing.assert_array_equal(vectors, CheapEmbedder().embed(texts))


@pytest.mark.parametrize("damage", ["3", '"AAAA"', "null", '"%%%%"', '["a"]', "{"])
def test_a_damaged_vector_is_computed_again_and_mended(tmp_path, damage):
    cheap = CheapEmbedder()
    vectors, _ = EmbeddingStore(tmp_path).embed(["one"], cheap)
    (file,) = tmp_path.glob("*.jsonl")
    key = json.loads(file.read_text())["key"]
    file.write_text(f'{{"key":"{key}","value":{damage}}}\n')
    for computed in (1, 0):
        again, count = EmbeddingStore(tmp_path).embed(["one"], cheap)
        np.testing.assert_array_equal(again, vectors)
        assert count == computed


def test_a_text_that_cannot_be_encoded_has_a_place_too(embedder, tmp_path):
    vectors, _ = EmbeddingStore(tmp_path).embed(["fox \ud83e"], CheapEmbedder())
    assert vectors.shape == (1, 384)
