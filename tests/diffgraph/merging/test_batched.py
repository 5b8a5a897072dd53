"""Rollouts in one pass against merges one at a time, on the whole model."""

from typing import Any

import pytest
import torch

from diffgraph.errors import PlanError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import CheckpointUpdate, LowRankUpdate, RenormalisedUpdate
from diffgraph.merging.apply import Merger
from diffgraph.merging.batched import is_batchable, rollouts

COUNT = 3


def touching(base: dict[str, torch.Tensor], kind: str, rank: int, seed: int) -> Delta:
    """Return random numbers for every weight of the UNet; as a checkpoint, for its biases too."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    updates: dict[str, Any] = {}
    for name, value in base.items():
        if not name.startswith("unet."):
            continue
        if kind == "checkpoint":
            updates[name] = CheckpointUpdate(value + draw(*value.shape), value)
        elif value.ndim > 1:
            shape = value.shape
            low = LowRankUpdate(draw(shape[0], rank), draw(rank, shape[1:].numel()), 1.0, shape)
            size = 1 + draw(shape[0])
            updates[name] = RenormalisedUpdate(low, size, 0, value) if kind == "dora" else low
    return Delta(updates, kind, Coverage())


def one_at_a_time(merger: Merger, plans: Any, deltas: Any, prompts: Any, seeds: Any) -> Any:
    images = []
    for plan, prompt, seed in zip(plans, prompts, seeds, strict=True):
        merger.apply(plan, deltas)
        images.append(merger.model.sample([prompt], [seed]))
    merger.reset()
    return torch.cat(images)


PROMPTS, SEEDS = ["a cat", "a dog at night", "a red car"], [1, 2, 3]


@pytest.mark.parametrize("kinds", [("lora",), ("lora", "checkpoint"), ("dora", "lora"), ()])
def test_a_batch_of_plans_draws_what_single_merges_draw(kinds: Any, tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    deltas = {
        f"hub:{seed}@1": touching(merger.base, kind, 2, seed) for seed, kind in enumerate(kinds)
    }
    plans = [
        {ref: value * (index + 1) for index, ref in enumerate(deltas)} for value in (0.0, 0.5, 0.3)
    ]
    expected = one_at_a_time(merger, plans, deltas, PROMPTS, SEEDS)
    with rollouts(merger, plans, deltas) as model:
        found = model.sample(PROMPTS, SEEDS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    if kinds:  # or the test would prove nothing
        merger.reset()
        assert (tiny_model.sample(PROMPTS, SEEDS)[1:] - expected[1:]).abs().max() > 1e-2


def test_the_model_is_the_base_again_afterwards(tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    deltas = {"hub:1@1": touching(merger.base, "lora", 2, 1)}
    before = tiny_model.sample(PROMPTS, SEEDS)
    with pytest.raises(RuntimeError), rollouts(merger, [{"hub:1@1": 1.0}] * COUNT, deltas):
        raise RuntimeError
    assert torch.equal(tiny_model.sample(PROMPTS, SEEDS), before)


def test_a_batch_of_another_size_is_refused(tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    deltas = {"hub:1@1": touching(merger.base, "lora", 2, 1)}
    with (
        rollouts(merger, [{"hub:1@1": value} for value in (1.0, 0.5, 0.1)], deltas) as model,
        pytest.raises(PlanError, match="cannot hold"),
    ):
        model.sample(PROMPTS[:1], SEEDS[:1])


def test_every_image_has_its_own_text_encoder(tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    names = [name for name in merger.base if name.startswith("text_encoder.")]
    generator = torch.Generator().manual_seed(5)
    updates = {
        name: CheckpointUpdate(
            merger.base[name] + 0.1 * torch.randn(merger.base[name].shape, generator=generator),
            merger.base[name],
        )
        for name in names
    }
    deltas = {
        "hub:1@1": Delta(updates, "checkpoint", Coverage()),
        "hub:2@1": touching(merger.base, "lora", 2, 1),
    }
    plans = [{"hub:1@1": 0.9}, {"hub:1@1": 0.2, "hub:2@1": 1.0}, {"hub:2@1": 0.5}]
    expected = one_at_a_time(merger, plans, deltas, PROMPTS, SEEDS)
    with rollouts(merger, plans, deltas) as model:
        found = model.sample(PROMPTS, SEEDS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (tiny_model.sample(PROMPTS, SEEDS) - expected).abs().amax((1, 2, 3)).min() > 1e-3


def test_what_all_plans_share_is_merged_once(tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    deltas = {
        "hub:1@1": touching(merger.base, "checkpoint", 2, 1),
        "hub:2@1": touching(merger.base, "lora", 2, 2),
        "hub:3@1": touching(merger.base, "dora", 2, 3),
    }
    plans = [{"hub:1@1": 0.4, "hub:2@1": value, "hub:3@1": 0.3} for value in (0.2, 0.5, 0.9)]
    expected = one_at_a_time(merger, plans, deltas, PROMPTS, SEEDS)
    with rollouts(merger, plans, deltas) as model:
        name = "unet.conv_in.weight"
        assert not torch.equal(model.parameters()[name], merger.base[name])
        found = model.sample(PROMPTS, SEEDS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert all(torch.equal(value, merger.base[n]) for n, value in model.parameters().items())


def test_what_cannot_differ_between_images_is_refused(tiny_model: Any) -> None:
    merger = Merger(tiny_model)
    name = "vae.decoder.conv_in.weight"
    update = LowRankUpdate(torch.ones(4, 1), torch.ones(1, 4), 1.0, torch.Size((4, 4)))
    deltas = {"hub:1@1": Delta({name: update}, "lora", Coverage())}
    assert not is_batchable(tiny_model, deltas)
    with (
        pytest.raises(PlanError),
        rollouts(merger, [{"hub:1@1": 1.0}, {"hub:1@1": 0.5}], deltas),
    ):
        pass
