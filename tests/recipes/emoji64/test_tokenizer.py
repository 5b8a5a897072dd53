"""Does the tokenizer know every byte, and load as Stable Diffusion's does?"""

from pathlib import Path
from typing import Any

import pytest

from diffgraph.families.emoji64 import ASSETS
from recipes.emoji64.art import Subject
from recipes.emoji64.tokenizer import train_tokenizer, training_texts

SUBJECTS = (
    Subject("1f98a", "fox", ("animal",), "animals"),
    Subject("1f355", "pizza", ("cheese", "food"), "food"),
)


def loaded(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(training_texts(SUBJECTS), size=700).save_pretrained(str(folder))
    return loaded(folder)


def test_no_byte_is_unknown(tokenizer: Any) -> None:
    characters = [chr(code) for code in (*range(1, 0x250), 0x65E5, 0x1F98A, 0xFFFD)]
    texts = [character + tail for character in characters for tail in ("", "x")]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.eos_token_id not in ids[1:-1], repr(text)


def test_a_prompt_survives_the_round_trip(tokenizer: Any) -> None:
    text = "a café for a fox, 日本, pixel art"
    ids = tokenizer(text)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_special_tokens_come_last_and_padding_is_the_end(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        len(tokenizer) - 2,
        len(tokenizer) - 1,
    )
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ids = tokenizer("a fox", padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == tokenizer.model_max_length == 32
    assert ids[0] == tokenizer.bos_token_id


def test_training_is_reproducible() -> None:
    first, second = (train_tokenizer(training_texts(SUBJECTS), size=700) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


def test_the_shipped_tokenizer_keeps_usual_words_whole() -> None:
    shipped = loaded(ASSETS / "base" / "tokenizer")
    assert len(shipped) == 2000
    assert shipped.tokenize("a dog in the snow") == [
        "a</w>",
        "dog</w>",
        "in</w>",
        "the</w>",
        "snow</w>",
    ]
