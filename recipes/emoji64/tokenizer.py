"""How is a prompt cut into tokens for emoji64's text encoder?

A small byte-complete BPE, trained on the captions and saved as a CLIP tokenizer: every byte has a
token inside and at the end of a word, so that no text of any language is unknown.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffgraph.artifacts import write_text
from diffgraph.families.emoji64 import ASSETS
from recipes.emoji64 import captions
from recipes.emoji64.architecture import CONTEXT_TOKENS
from recipes.emoji64.art import STYLES, Art, Subject, load_art
from recipes.emoji64.treatments import TREATMENTS, compatible_sets

log = logging.getLogger(__name__)

VOCABULARY = 2000
BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def training_texts(subjects: Sequence[Subject], rounds: int = 4, seed: int = 0) -> Iterator[str]:
    """Yield captions of every subject, style and treatment, and every tag."""
    rng = np.random.default_rng(seed)
    names, pairs = list(TREATMENTS), compatible_sets(2)
    for subject in subjects:
        yield " ".join(subject.tags)
        for number in range(rounds):
            style = STYLES[rng.integers(len(STYLES))] if number % 2 else None
            chosen = (
                (names[rng.integers(len(names))],)
                if number % 2
                else pairs[rng.integers(len(pairs))]
            )
            yield captions.caption(subject, style, chosen, rng)
    yield from [captions.FUNCTION_WORDS] * 20


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """Return a `CLIPTokenizer` with `size` tokens trained on these texts."""
    from tokenizers import pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = letters + [letter + WORD_END for letter in letters]
    shape = CLIPTokenizer(
        vocab={symbol: i for i, symbol in enumerate((*symbols, BEGIN, END))}, merges=[]
    )
    learner = shape.backend_tokenizer
    learner.model = BPE(continuing_subword_prefix="", end_of_word_suffix=WORD_END, fuse_unk=False)
    trainer = BpeTrainer(
        vocab_size=size - 2,
        special_tokens=symbols,  # in this order, or ties between merges fall differently each time
        initial_alphabet=letters,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = _merges(learner)[: size - 2 - len(symbols)]
    tokens = dict.fromkeys([*symbols, *(left + right for left, right in merges), BEGIN, END])
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token=END,
        bos_token=BEGIN, eos_token=END, pad_token=END,
    )  # fmt: skip
    tokenizer.model_max_length = CONTEXT_TOKENS
    return tokenizer


def write_words(art_subjects: Sequence[Subject], path: Path) -> None:
    """Write the words the family knows, one a line."""
    write_text(path, "\n".join(captions.vocabulary(art_subjects)) + "\n")


def write_assets(art: Art, assets: Path = ASSETS) -> None:
    """Train and write the tokenizer and the word list of emoji64."""
    tokenizer = train_tokenizer(training_texts(art.subjects))
    tokenizer.save_pretrained(str(assets / "base" / "tokenizer"))
    file = assets / "base" / "tokenizer" / "tokenizer.json"  # half its bytes are spaces
    facts = json.loads(file.read_text(encoding="utf-8"))
    write_text(file, json.dumps(facts, separators=(",", ":"), ensure_ascii=False))
    write_words(art.subjects, assets / "words.txt")
    log.info("%d tokens", len(tokenizer))


def _merges(learner: Any) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def main() -> None:
    """Write the tokenizer and the word list from the packed art."""
    parser = argparse.ArgumentParser(description="Train emoji64's tokenizer on its captions.")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji64"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_assets(load_art(given.cache), given.assets)


if __name__ == "__main__":
    main()
