"""A handful of made-up pictures, so that the recipe can be tried without the art."""

from typing import Any

import pytest
import torch

from recipes.emoji64.art import RESOLUTION, STYLES, Art, Subject

NAMES = ("dog", "cat", "apple", "rocket", "house", "tree")


@pytest.fixture(scope="session")
def few_pictures() -> Art:
    """Six subjects in five styles: a coloured shape each, on nothing."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(RESOLUTION)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    images, subject, style = [], [], []
    for number in range(len(NAMES)):
        colour = torch.randint(30, 220, (3,), generator=generator)
        reach = 12 + 2 * number
        round_shape = (rows - 32) ** 2 + (columns - 32) ** 2 < reach**2
        square = ((rows - 32).abs() < reach) & ((columns - 30).abs() < reach // 2 + 4)
        shape = round_shape if number % 2 else square
        for place in range(len(STYLES)):
            picture = torch.zeros(RESOLUTION, RESOLUTION, 4, dtype=torch.uint8)
            picture[shape] = torch.cat(
                [(colour + 7 * place).clamp(max=255), torch.tensor([255])]
            ).byte()
            images.append(picture)
            subject.append(number)
            style.append(place)
    subjects = tuple(Subject(f"{index}", name, (), "objects") for index, name in enumerate(NAMES))
    return Art(torch.stack(images), torch.tensor(subject), torch.tensor(style), subjects)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The family's own, which ships."""
    from transformers import CLIPTokenizer

    from recipes.emoji64.stages import TOKENIZER

    return CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


@pytest.fixture(scope="session")
def text_encoder(tokenizer: Any) -> Any:
    """A text encoder with random weights that knows the family's words."""
    from recipes.emoji64.architecture import build_text_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # noqa: TID251 (layers draw from it; the fork gives it back)
        return build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
