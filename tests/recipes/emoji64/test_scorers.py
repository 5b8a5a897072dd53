from dataclasses import replace

import pytest
import torch

from diffgraph.experts.reading import read_delta
from diffgraph.families.emoji64.scorers import SCORERS
from diffgraph.merging.apply import Merger
from diffgraph.scoring import SCORE_NAMES
from recipes.emoji64.community import COMMUNITY
from recipes.emoji64.degrading import degraded
from recipes.emoji64.image_sampler import ImageSampler, read_updates
from recipes.emoji64.scorer_bank import BankConfig, _subjects, compose_bank
from recipes.emoji64.scorer_batches import SPOILT, BatchSource, ScorerTraining, moved
from recipes.emoji64.scorer_data import (
    KINDS,
    DataConfig,
    draw_compositions,
    load_data,
    make_data,
    save_data,
)
from recipes.emoji64.scorer_losses import listwise_loss, pick_loss, preference_loss
from recipes.emoji64.scorer_plans import (
    DRAWN,
    asked_by_bench,
    covered,
    is_held_out,
    plans_of,
    treatment_sets,
)
from recipes.emoji64.train_scorers import train_scorers
from recipes.emoji64.truth import closeness, closeness_to
from recipes.emoji64.writing import write_checkpoint


def rng(seed=0):
    import numpy as np

    return np.random.default_rng(seed)


def sampler_of(model):
    generator = torch.Generator().manual_seed(1)
    name = next(name for name in model.parameters() if name.endswith("to_q.weight"))
    shape = model.parameters()[name].shape
    updates = {
        recipe.slug: {name: 0.1 * torch.randn(shape, generator=generator)} for recipe in COMMUNITY
    }
    return ImageSampler(model, updates, batch=3)


@pytest.fixture
def sampler(tiny_model):
    return sampler_of(tiny_model)


@pytest.fixture(scope="module")
def drawn(tiny_model_parts, few_pictures):
    """A few groups to learn from and a few to be tested on."""
    sampler, config = sampler_of(tiny_model_parts[0]), DataConfig(sets=6, test_sets=1, prompts=3)
    return [
        make_data(sampler, few_pictures, config, held_out=held_out) for held_out in (False, True)
    ]


class TestImageSampler:
    def test_draws_what_the_product_draws(self, sampler):
        prompts, seeds = ["a dog", "a cat"], [3, 4]
        expected = sampler.model.sample(prompts, seeds)
        images = sampler.draw(prompts, sampler.model.noise(seeds))
        torch.testing.assert_close(images.float() / 255, expected, atol=1 / 255, rtol=0)

    def test_writes_a_plan_and_takes_it_back(self, sampler):
        first, second = COMMUNITY[0].slug, COMMUNITY[1].slug
        name = next(iter(sampler.updates[first]))
        before = sampler.weights.live[name].clone()
        sampler.write({first: 0.5, second: -1.0})
        expected = before + 0.5 * sampler.updates[first][name] - sampler.updates[second][name]
        torch.testing.assert_close(sampler.weights.live[name], expected)
        sampler.write({})
        assert torch.equal(sampler.weights.live[name], before)

    def test_merges_as_the_product_does(self, tiny_model, tmp_path):
        generator = torch.Generator().manual_seed(2)
        live = tiny_model.parameters()
        names = [name for name in live if name.endswith(("to_k.weight", "conv1.weight"))]
        for slug, part in (("one", names[:3]), ("two", names[1:5])):
            learnt = {
                name: live[name] + 0.1 * torch.randn(live[name].shape, generator=generator)
                for name in part
            }
            write_checkpoint({**live, **learnt}, tmp_path / f"{slug}.safetensors", "fp16")
        paths = {slug: tmp_path / f"{slug}.safetensors" for slug in ("one", "two")}
        plan = {"one": 0.7, "two": -0.4}
        merger = Merger(tiny_model)
        merger.apply(plan, {slug: read_delta(path, merger.base) for slug, path in paths.items()})
        expected = {name: value.clone() for name, value in live.items()}
        merger.reset()
        ImageSampler(tiny_model, read_updates(paths, tiny_model), batch=1).write(plan)
        for name in names:
            torch.testing.assert_close(live[name], expected[name])

    def test_plans_that_share_a_batch_are_drawn_as_if_alone(self, sampler):
        first, second = COMMUNITY[0].slug, COMMUNITY[1].slug
        plans = [{}, {first: 0.5}, {first: 1.0, second: -0.5}]
        noise = sampler.model.noise([5, 6])
        together = sampler.draw_plans("a dog", plans, noise)
        assert together.shape == (3, 2, 3, 64, 64)
        for plan, images in zip(plans, together, strict=True):
            sampler.write(plan)
            alone = sampler.draw(["a dog"] * 2, noise)
            assert (alone.int() - images.int()).abs().max() <= 1
        assert (together[0] != together[1]).any()
        assert (together[1, 0] != together[1, 1]).any()

    def test_names_an_unknown_expert(self, sampler):
        with pytest.raises(KeyError, match="nobody"):
            sampler.write({"nobody": 1.0})


class TestData:
    def test_training_and_test_sets_share_no_pair(self):
        training = treatment_sets(60, held_out=False, rng=rng())
        test = treatment_sets(10, held_out=True, rng=rng())
        assert not any(is_held_out(names) for names in training)
        assert all(is_held_out(names) for names in test)
        assert {len(names) for names in training} == {0, 1, 2, 3}
        assert len({name for names in training for name in names}) > 0.9 * len(covered())

    @pytest.mark.parametrize("count", [1, 2, 7, 60])
    def test_as_many_sets_as_asked_for(self, count):
        assert len(treatment_sets(count, held_out=False, rng=rng())) == count
        few = treatment_sets(count, held_out=False, rng=rng(), known=("night",))
        assert len(few) == count
        assert set(few) <= {(), ("night",)}

    def test_plans_follow_their_kinds(self):
        for treatments in ((), ("night",), ("night", "red_frame")):
            plans = dict(zip(DRAWN, plans_of(treatments, rng(1)), strict=True))
            assert plans["base"][0] == {}
            full, half = plans["right 1.0"], plans["right 0.5"]
            assert full[1] == half[1] == frozenset(treatments)
            assert all(half[0][slug] == pytest.approx(full[0][slug] / 2) for slug in full[0])
            assert not plans["wrong"][1] & set(treatments)

    def test_groups_hold_every_kind(self, drawn):
        for data in drawn:
            assert data.images.shape == (len(data), len(KINDS), 3, 64, 64)
            assert data.images.dtype == torch.uint8
            assert data.closeness.shape == data.cleanness.shape == (len(data), len(KINDS))
            truth, spoilt = (
                data.closeness[:, KINDS.index(kind)] for kind in ("truth", "degraded truth")
            )
            assert (truth > 0.98).all()
            assert spoilt.mean() < truth.mean() - 0.02
            assert (data.cleanness >= data.closeness - 1e-5).all()
            assert data.cleanness.max() <= 1

    def test_only_the_test_holds_what_is_held_out(self, drawn):
        training, test = drawn
        assert not any(is_held_out(own.treatments) for own in training.compositions)
        assert all(is_held_out(own.treatments) for own in test.compositions)

    def test_survives_a_round_trip(self, drawn, tmp_path):
        save_data(drawn[0], tmp_path / "data.safetensors")
        again = load_data(tmp_path / "data.safetensors")
        assert again.compositions == drawn[0].compositions
        assert again.prompts == drawn[0].prompts
        assert torch.equal(again.images, drawn[0].images)

    def test_never_draws_what_the_bench_asks_for(self, few_pictures):
        name, treatments = next(pair for pair in sorted(asked_by_bench()) if len(pair[1]) == 1)
        subjects = (replace(few_pictures.subjects[0], name=name), *few_pictures.subjects[1:])
        art = replace(few_pictures, subjects=subjects)
        drawn = draw_compositions(art, treatments, 40, rng())
        assert {composition.subject for composition in drawn} == {1, 2, 3, 4, 5}


class TestLosses:
    @pytest.mark.parametrize(
        "loss",
        [lambda r, c: preference_loss(r, c, 1.0), pick_loss, lambda r, c: listwise_loss(r, c, 1.0)],
        ids=["pairs", "picks", "lists"],
    )
    def test_the_right_order_costs_least(self, loss):
        close = torch.tensor([[0.2, 0.5, 0.9]])
        assert loss(8 * close, close) < loss(0 * close, close) < loss(-8 * close, close)

    def test_degrading_takes_an_image_away_from_what_it_was(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
        images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
        after = degraded(images, generator)
        assert after.dtype == torch.uint8
        assert (closeness(after, images) < 0.995).float().mean() > 0.8

    def test_moving_keeps_the_middle_of_an_image(self):
        images = torch.zeros(5, 3, 64, 64)
        images[:, :, 20:40, 20:40] = 1
        assert (moved(images, torch.Generator().manual_seed(0))[:, :, 22:38, 22:38] == 1).all()


SMALL_BANK = BankConfig(blocks=2, together=3, subjects=4)


class TestTrainingData:
    @pytest.fixture(scope="class")
    def bank(self, few_pictures, tiny_model_parts):
        return compose_bank(few_pictures, tiny_model_parts[0].tokenizer, SMALL_BANK)

    def test_the_bank_holds_truths(self, bank, few_pictures):
        assert bank.images.shape == (6, 4, 5, 3, 64, 64)
        chosen, subject = torch.tensor([0, 4, 5]), torch.tensor([1, 0, 3])
        wording = torch.tensor([0, 1, 5])
        truths = bank.truths(chosen, subject, wording)
        assert truths.allowed.sum(1).tolist() == [5, 1, 1]
        named = bank.images[chosen, subject, torch.tensor([2, 0, 4])]
        torch.testing.assert_close(closeness_to(named, truths), torch.ones(3), atol=1e-3, rtol=0)

    def test_the_bank_leaves_out_what_the_bench_asks_for(self, few_pictures, tiny_model_parts):
        name = next(name for name, own in sorted(asked_by_bench()) if len(own) == 1)
        kept_back = {own for asked, own in asked_by_bench() if asked == name}
        subjects = (replace(few_pictures.subjects[0], name=name), *few_pictures.subjects[1:])
        art = replace(few_pictures, subjects=subjects)
        blocks = [[names] for names in sorted(kept_back)]
        chosen = _subjects(art, blocks, SMALL_BANK, rng())
        assert all(0 not in own for own in chosen)
        assert any(0 in own for own in _subjects(art, [[()]], BankConfig(subjects=6), rng()))

    def test_a_batch_separates_other_images_from_the_truth(self, drawn, bank, tiny_model_parts):
        tokenizer = tiny_model_parts[0].tokenizer
        config = ScorerTraining(groups=4, composed=5, drawn=4)
        source = BatchSource(drawn[0], bank, tokenizer, "hps", config)
        batch = source.batch(torch.Generator().manual_seed(0))
        assert batch.images.shape[:2] == batch.closeness.shape == (9, source.members)
        truth = batch.closeness[4:, 0]
        assert (truth > 0.98).all()
        assert (batch.closeness[4:, 2:] < truth.unsqueeze(1) - 0.005).float().mean() > 0.6
        assert (batch.cleanness[4:, :-SPOILT] == 1).all()
        assert (batch.cleanness[4:, -SPOILT:] < 1).all()


def test_all_five_learn_and_resume(drawn, few_pictures, tiny_model_parts, tmp_path):
    tokenizer = tiny_model_parts[0].tokenizer
    training = ScorerTraining(groups=3, composed=2, drawn=3, steps=2, bank=SMALL_BANK)
    found = train_scorers(*drawn, few_pictures, tokenizer, tmp_path, config=training)
    assert set(found) == set(SCORE_NAMES)
    for name in SCORE_NAMES:
        assert -1 <= found[name]["test"]["within_prompt"] <= 1
        scorer = SCORERS[name].load(tmp_path / name, tokenizer)
        assert torch.isfinite(scorer(torch.rand(2, 3, 64, 64), ["a dog", "a cat"])).all()
        assert sum(file.stat().st_size for file in (tmp_path / name).iterdir()) < 1_500_000
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    train_scorers(*drawn, few_pictures, tokenizer, tmp_path, config=training)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
