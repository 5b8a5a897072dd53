from dataclasses import replace

import pytest
import torch

from diffgraph.experts.reading import read_delta
from recipes.emoji64.community import recipe_of
from recipes.emoji64.expert_stage import write
from recipes.emoji64.finetune import train_adapter, train_checkpoint
from recipes.emoji64.rounding import keep_what_ships, learn_as_shipped
from recipes.emoji64.training_data import expert_training_data

METHODS = {"sepia": "lora", "night": "locon", "sunset": "dora", "pop_art": "loha", "dreamy": "lokr"}


@pytest.fixture
def teach(tiny_model, tokenizer, text_encoder, few_pictures):
    """Train an expert for two steps."""

    def run(slug):
        recipe = replace(recipe_of(slug), steps=2)
        data = expert_training_data(recipe, few_pictures, tiny_model.vae, tokenizer, 8)
        train = train_checkpoint if recipe.kind == "checkpoint" else train_adapter
        return train(tiny_model.unet, text_encoder, recipe, data, batch=2)

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


@pytest.mark.parametrize("slug", ["puffy_3d", "flatland"])
def test_a_checkpoint_is_what_its_file_brings_back(slug, teach, tiny_model, tmp_path):
    """At the recommended strength a merge of the file gives the very weights that learnt."""
    recipe = recipe_of(slug)
    assert recipe.dtype == "fp8"
    student, _ = teach(slug)
    write(student, recipe, tiny_model, tmp_path / "one.safetensors")
    delta = read_delta(tmp_path / "one.safetensors", tiny_model.parameters())
    merged = {
        name: value + recipe.strength * delta.updates[f"unet.{name}"].dense()
        for name, value in tiny_model.unet.state_dict().items()
    }
    for name, value in student.state_dict().items():
        limit = 1e-5 if value.ndim > 1 else 2e-3  # vectors are rounded to float16 only
        torch.testing.assert_close(merged[name], value, atol=limit, rtol=limit)


def test_what_is_rounded_still_learns():
    """Gradients pass the rounding: many small steps end on another of the file's numbers."""
    layer = torch.nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    learn_as_shipped(layer, 0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    wanted = before + 0.3
    for _ in range(2000):
        optimizer.zero_grad()
        (layer.weight - wanted).square().sum().backward()
        optimizer.step()
    keep_what_ships(layer)
    assert (layer.weight - wanted).abs().max() < 0.05
    shipped = (before + (layer.weight - before) / 0.5).to(torch.float8_e4m3fn).float()
    torch.testing.assert_close(before + 0.5 * (shipped - before), layer.weight.detach())
