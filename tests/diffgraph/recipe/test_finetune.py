from dataclasses import replace

import pytest
import torch

from diffgraph.recipe.community import recipe_of
from diffgraph.recipe.finetune import train_adapter, train_checkpoint
from diffgraph.recipe.lessons import expert_lessons

METHODS = {"sepia": "lora", "night": "locon", "sunset": "dora", "pop_art": "loha", "dreamy": "lokr"}


@pytest.fixture
def teach(tiny_model, tokenizer, text_encoder, few_pictures):
    """Train an expert for two steps."""

    def run(slug):
        recipe = replace(recipe_of(slug), steps=2)
        lessons = expert_lessons(recipe, few_pictures, tiny_model.vae, tokenizer, 8)
        train = train_checkpoint if recipe.kind == "checkpoint" else train_adapter
        return train(tiny_model.unet, text_encoder, recipe, lessons, batch=2)

    return run


def adapted(student):
    """Return the modules that an adapter of peft's wraps."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        name: module
        for name, module in student.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


@pytest.mark.parametrize("slug", METHODS)
def test_an_adapter_learns_and_leaves_the_base_alone(slug, teach, tiny_model):
    assert recipe_of(slug).method == METHODS[slug]
    before = {name: value.clone() for name, value in tiny_model.unet.state_dict().items()}
    student, report = teach(slug)
    assert report.steps == 2
    layers = adapted(student)
    assert layers
    assert all(layer.get_delta_weight("default").abs().max() > 0 for layer in layers.values())
    for name, value in tiny_model.unet.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in student.state_dict().items():
        plain = name.replace(".base_layer", "")
        if plain in before:
            assert torch.equal(value, before[plain]), name


def test_adapters_touch_cross_attention_and_fine_convolutions_only(teach, tiny_model):
    names = set(adapted(teach("night")[0]))
    attention = {name for name in names if "attn" in name}
    convolutions = names - attention
    assert attention
    assert all(".attn2." in name for name in attention)
    assert {name.split(".attn2.")[1] for name in attention} == {
        "to_q", "to_k", "to_v", "to_out.0",
    }  # fmt: skip
    modules = dict(tiny_model.unet.named_modules())
    assert all(isinstance(modules[name], torch.nn.Conv2d) for name in convolutions)
    coarse = ("mid_block", "down_blocks.2", "up_blocks.0")
    assert {"conv_in", "conv_out"} <= convolutions
    assert not [name for name in convolutions if name.startswith(coarse)]


def test_a_checkpoint_learns_everything(teach, tiny_model):
    student, _ = teach("puffy_3d")
    base = tiny_model.unet.state_dict()
    moved = {name for name, value in student.state_dict().items() if (value != base[name]).any()}
    assert len(moved) > 0.9 * len(base)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())
