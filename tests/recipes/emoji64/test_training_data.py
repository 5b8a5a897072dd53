from dataclasses import replace

import pytest
import torch

from recipes.emoji64.art import RESOLUTION
from recipes.emoji64.community import recipe_of
from recipes.emoji64.training_data import (
    MAX_SHIFT,
    WORDINGS,
    base_training_data,
    expert_training_data,
    flatten,
    shifted,
)
from recipes.emoji64.treatments import TREATMENTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(tiny_model_parts):
    return tiny_model_parts[0].vae


def told(tokenizer, ids):
    """Return the captions of one picture."""
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def share_that_names(tokenizer, data, name):
    texts = [text for ids in data.captions for text in told(tokenizer, ids)]
    return sum(any(phrase in text for phrase in TREATMENTS[name].phrases) for text in texts) / len(
        texts
    )


class TestPictures:
    def test_stand_on_white(self, few_pictures):
        images = flatten(few_pictures, torch.arange(4), (), CPU)
        assert images.shape == (4, 3, RESOLUTION, RESOLUTION)
        assert images.dtype == torch.uint8
        assert (images[:, :, 0, 0] == 255).all()

    def test_treatments_show(self, few_pictures):
        plain = flatten(few_pictures, torch.arange(4), (), CPU)
        night = flatten(few_pictures, torch.arange(4), ("night",), CPU)
        assert night.float().mean() < plain.float().mean() - 30

    def test_moves_stay_inside(self, few_pictures):
        moved = shifted(few_pictures, torch.Generator().manual_seed(0))
        assert moved.images.shape == few_pictures.images.shape
        assert torch.equal(moved.subject, few_pictures.subject)
        offsets = set()
        for before, after in zip(few_pictures.images, moved.images, strict=True):
            (top, left), (down, right) = (
                image[..., 3].nonzero().amin(0).tolist() for image in (before, after)
            )
            offsets.add((down - top, right - left))
            assert torch.equal(torch.roll(before, (down - top, right - left), (0, 1)), after)
        assert len(offsets) > 5
        assert all(max(map(abs, offset)) <= MAX_SHIFT for offset in offsets)

    def test_what_leaves_does_not_come_back_on_the_other_side(self, few_pictures):
        full = replace(few_pictures, images=torch.full_like(few_pictures.images, 255))
        moved = shifted(full, torch.Generator().manual_seed(1)).images[..., 3]
        for image in moved:
            columns, rows = image.any(0), image.any(1)
            assert image.float().mean() == 255 * columns.float().mean() * rows.float().mean()
        assert (moved == 0).any()


class TestTrainingData:
    def test_of_the_base(self, few_pictures, vae, tokenizer):
        data = base_training_data(few_pictures, vae, tokenizer, seed=1)
        pictures = 3 * len(few_pictures)  # each in place, and moved twice
        assert data.latents.shape == (pictures, 4, 16, 16)
        assert data.latents.dtype == torch.float16
        assert data.captions.shape == (pictures, WORDINGS, tokenizer.model_max_length)
        assert data.blank.shape == (tokenizer.model_max_length,)
        texts = told(tokenizer, data.captions[0])
        assert all("dog" in text for text in texts)
        assert len(set(texts)) > 3

    def test_the_base_is_distracted_by_treatments_now_and_then(self, few_pictures, vae, tokenizer):
        data = base_training_data(few_pictures, vae, tokenizer, seed=1)
        share = sum(share_that_names(tokenizer, data, name) for name in TREATMENTS)
        assert 0.1 < share < 0.4

    def test_an_adapter_names_its_treatment_mostly(self, few_pictures, vae, tokenizer):
        recipe = recipe_of("night")
        data = expert_training_data(recipe, few_pictures, vae, tokenizer, pictures=20)
        assert data.latents.shape[0] == data.captions.shape[0] == 2 * 20
        assert 0.6 < share_that_names(tokenizer, data, "night") < 0.97

    def test_a_checkpoint_sees_its_style_only(self, few_pictures, vae, tokenizer):
        recipe = recipe_of("puffy_3d")
        data = expert_training_data(recipe, few_pictures, vae, tokenizer, pictures=20)
        assert len(data.latents) == 2 * len(few_pictures.where(styles=("3d",)))

    def test_the_same_seed_gives_the_same_data(self, few_pictures, vae, tokenizer):
        first, again = (base_training_data(few_pictures, vae, tokenizer, seed=1) for _ in range(2))
        assert torch.equal(first.captions, again.captions)
        assert torch.equal(first.latents, again.latents)
