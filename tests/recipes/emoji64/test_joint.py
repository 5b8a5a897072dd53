"""Adapters learn together: exactly, on what may be asked for together, and to some effect."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffgraph.experts.reading import read_delta
from recipes.emoji64.community import COMMUNITY, recipe_of
from recipes.emoji64.denoiser import VelocityLoss
from recipes.emoji64.expert_stage import write
from recipes.emoji64.factors import TrainableAdapter
from recipes.emoji64.finetune import train_adapter
from recipes.emoji64.joint_training import AdapterGroup, JointConfig, MergedModel, train_together
from recipes.emoji64.joint_training_data import (
    Combination,
    CombinationConfig,
    combinations_of,
    joint_training_data,
)
from recipes.emoji64.loop import LoopConfig
from recipes.emoji64.scorer_plans import is_held_out
from recipes.emoji64.training_data import expert_training_data
from recipes.emoji64.treatments import TREATMENTS, is_compatible

METHODS = {"sepia": "lora", "night": "locon", "sunset": "dora", "pop_art": "loha", "dreamy": "lokr"}
LAYOUTS = {"sepia": "kohya", "blueprint": "peft", "golden": "lycoris"}
FEW = CombinationConfig(pictures=4, wordings=2)


@pytest.fixture
def made(tiny_model, tokenizer, text_encoder, few_pictures, tmp_path):
    """Train an expert for two steps and return its file."""

    def run(slug):
        path = tmp_path / f"{slug}.safetensors"
        if not path.is_file():
            recipe = replace(recipe_of(slug), steps=2)
            data = expert_training_data(recipe, few_pictures, tiny_model.vae, tokenizer, 8)
            student, _ = train_adapter(tiny_model.unet, text_encoder, recipe, data, batch=2)
            write(student, recipe, tiny_model, path)
        return path

    return run


@pytest.fixture
def adapter_group(made, tiny_model):
    slugs = ("sepia", "pop_art")
    adapters = {slug: TrainableAdapter(made(slug), dict(tiny_model.parameters())) for slug in slugs}
    return AdapterGroup(adapters, {slug: recipe_of(slug).strength for slug in slugs}, {})


@pytest.fixture
def pair(few_pictures, tiny_model, tokenizer):
    combination = Combination(("pop_art", "sepia"), ("pop_art", "sepia"), None, 1.0)
    return joint_training_data([combination], few_pictures, tiny_model.vae, tokenizer, FEW)


class TestFactors:
    @pytest.mark.parametrize("slug", [*METHODS, *LAYOUTS])
    def test_add_what_the_reader_reads(self, slug, made, tiny_model):
        recipe = recipe_of(slug)
        assert recipe.method == METHODS.get(slug, recipe.method)
        assert recipe.layout == LAYOUTS.get(slug, recipe.layout)
        parameters = dict(tiny_model.parameters())
        updates = TrainableAdapter(made(slug), parameters).updates()
        delta = read_delta(made(slug), parameters)
        assert updates.keys() == delta.updates.keys()
        for name, update in delta.updates.items():
            torch.testing.assert_close(updates[name], update.dense(), atol=2e-6, rtol=1e-4)

    @pytest.mark.parametrize("slug", METHODS)
    def test_are_saved_as_their_file_had_them(self, slug, made, tiny_model, tmp_path):
        adapter = TrainableAdapter(made(slug), dict(tiny_model.parameters()))
        key, leaf = next(iter(adapter.leaves.items()))
        with torch.no_grad():
            leaf.add_(1)
        adapter.save(tmp_path / "after.safetensors")
        before, after = load_file(made(slug)), load_file(tmp_path / "after.safetensors")
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name].dtype == value.dtype
            wanted = (value.float() + 1).to(value.dtype) if name == key else value
            assert torch.equal(after[name], wanted)
        headers = []
        for path in (made(slug), tmp_path / "after.safetensors"):
            with safe_open(path, "pt") as file:
                headers.append(file.metadata())
        assert headers[0] == headers[1]

    def test_that_do_not_fit_are_not_written(self, made, tiny_model, tmp_path):
        adapter = TrainableAdapter(made("sepia"), dict(tiny_model.parameters()))
        with torch.no_grad():
            next(iter(adapter.leaves.values())).fill_(1e6)
        with pytest.raises(ValueError, match=r"after\.safetensors: .* does not fit torch\.float16"):
            adapter.save(tmp_path / "after.safetensors")
        assert not (tmp_path / "after.safetensors").exists()

    def test_of_a_whole_model_do_not_learn(self, tiny_model, tmp_path):
        write(tiny_model.unet, recipe_of("puffy_3d"), tiny_model, tmp_path / "whole.safetensors")
        with pytest.raises(ValueError, match="nothing that changes unet"):
            TrainableAdapter(tmp_path / "whole.safetensors", dict(tiny_model.parameters()))


class TestCombinations:
    def test_are_never_what_the_bench_asks_for(self):
        for combination in combinations_of(COMMUNITY, CombinationConfig()):
            assert not is_held_out(combination.treatments)
            assert not any(is_held_out(two) for two in combinations(combination.treatments, 2))
            assert is_compatible(combination.treatments)

    def test_are_good_experts_of_what_they_show(self):
        made_combinations = combinations_of(COMMUNITY, CombinationConfig())
        assert sum(combination.share for combination in made_combinations) == pytest.approx(1)
        assert {len(combination.adapters) for combination in made_combinations} == {1, 2, 3}
        for combination in made_combinations:
            for name, slug in zip(combination.treatments, combination.adapters, strict=True):
                assert recipe_of(slug).treatments == (name,)
                assert recipe_of(slug).quality == "good"
        checkpoints = {
            combination.checkpoint.slug
            for combination in made_combinations
            if combination.checkpoint
        }
        assert checkpoints == {
            recipe.slug
            for recipe in COMMUNITY
            if recipe.kind == "checkpoint" and recipe.quality == "good"
        }

    def test_call_every_adapter_about_as_often(self):
        config = CombinationConfig(pairs=100)
        pairs = [
            combination
            for combination in combinations_of(COMMUNITY, config)
            if len(combination.adapters) == 2
        ]
        called = Counter(
            slug
            for combination in pairs
            if not combination.checkpoint
            for slug in combination.adapters
        )
        assert len(called) == len(TREATMENTS)
        assert max(called.values()) <= 2 * min(called.values())

    def test_show_what_they_stand_for(self, pair, few_pictures, tiny_model, tokenizer):
        first, count = pair.windows[0]
        assert (first, count) == (0, 4)
        alone = Combination(("sepia",), ("sepia",), None, 1.0)
        other = joint_training_data([alone], few_pictures, tiny_model.vae, tokenizer, FEW)
        assert len(other.data.latents) == 16
        texts = tokenizer.batch_decode(pair.data.captions.flatten(0, 1))
        for name in ("pop_art", "sepia"):
            assert all(any(way in text for way in TREATMENTS[name].phrases) for text in texts)

    def test_without_pictures_are_left_out(self, few_pictures, tiny_model, tokenizer):
        """Nothing here is an animal, so nothing shows what a model of animals stands for."""
        made_combinations = [
            Combination(("sepia",), ("sepia",), checkpoint, 0.5)
            for checkpoint in (recipe_of("critter_cabin"), None)
        ]
        data = joint_training_data(made_combinations, few_pictures, tiny_model.vae, tokenizer, FEW)
        assert data.combinations == (made_combinations[1],)


class TestTraining:
    def test_gradients_are_those_of_the_merged_model(
        self, adapter_group, pair, tiny_model, text_encoder
    ):
        """Against autograd through the whole merge, which no step of the training takes."""
        unet = tiny_model.unet
        base = {name: value.detach().clone() for name, value in unet.named_parameters()}
        merged = dict(base)
        for slug, own in adapter_group.adapters.items():
            for name, update in own.updates().items():
                short = name.removeprefix("unet.")
                merged[short] = merged[short] + adapter_group.strengths[slug] * update

        def whole(*given, **options):
            return torch.func.functional_call(unet, merged, given, options)

        data = pair.data.to(torch.device("cpu"))
        names = sorted({name for own in adapter_group.adapters.values() for name in own.parts})
        model = MergedModel(unet, text_encoder, data, 3, names)
        leaves = [leaf for own in adapter_group.adapters.values() for leaf in own.parameters()]

        generator = torch.Generator().manual_seed(5)
        share = torch.rand(3, generator=generator)
        loss = VelocityLoss(whole, text_encoder, data, 3).of((share * 4).long(), generator)
        wanted = torch.autograd.grad(loss, leaves)

        made = [adapter_group.merged(slug) for slug in adapter_group.adapters]
        model.weights.write(made)
        model.generator.manual_seed(5)
        found, gradients = model.gradients((0, 4))
        torch.autograd.backward(
            [value for _, own in made for value in own.values()],
            [gradients[name] * strength for strength, own in made for name in own],
        )
        torch.testing.assert_close(found, loss.detach())
        assert any(gradient.abs().max() > 1e-6 for gradient in wanted)
        for leaf, gradient in zip(leaves, wanted, strict=True):
            torch.testing.assert_close(leaf.grad, gradient, atol=1e-6, rtol=1e-3)

    def test_a_merge_gets_nearer_and_the_base_stays(
        self, adapter_group, pair, tiny_model, text_encoder
    ):
        before = {name: value.clone() for name, value in tiny_model.unet.state_dict().items()}
        loop = LoopConfig(steps=40, learning_rate=1e-2, weight_decay=0.0)
        [report] = train_together(
            tiny_model.unet, text_encoder, adapter_group, pair, JointConfig(rounds=(loop,), batch=4)
        )
        assert report.steps == 40
        assert sum(report.losses[-10:]) < 0.9 * sum(report.losses[:10])
        for name, value in tiny_model.unet.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_only_what_is_merged_learns(
        self, adapter_group, few_pictures, tiny_model, text_encoder, tokenizer
    ):
        alone = Combination(("sepia",), ("sepia",), None, 1.0)
        data = joint_training_data([alone], few_pictures, tiny_model.vae, tokenizer, FEW)
        before = {
            slug: [leaf.detach().clone() for leaf in own.parameters()]
            for slug, own in adapter_group.adapters.items()
        }
        loop = LoopConfig(steps=2, learning_rate=1e-2)
        train_together(
            tiny_model.unet, text_encoder, adapter_group, data, JointConfig(rounds=(loop,), batch=2)
        )
        moved = {
            slug: any(
                not torch.equal(leaf, old)
                for leaf, old in zip(own.parameters(), before[slug], strict=True)
            )
            for slug, own in adapter_group.adapters.items()
        }
        assert moved == {"sepia": True, "pop_art": False}
