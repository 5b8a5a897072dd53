from itertools import pairwise

import pytest
import torch

from recipes.emoji64.loop import LoopConfig, learning_rate, optimise


class TestLearningRate:
    def test_rises_in_a_line_then_falls_to_nothing(self):
        config = LoopConfig(learning_rate=0.1, warmup=0.1)
        rates = [learning_rate(step, 100, config) for step in range(100)]
        assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
        assert rates[10] == pytest.approx(0.1)
        assert all(after < before for before, after in pairwise(rates[10:]))
        assert rates[55] == pytest.approx(0.05)
        assert 0 < rates[-1] < 1e-4

    def test_a_single_step_learns(self):
        assert learning_rate(0, 1, LoopConfig(learning_rate=0.1)) == pytest.approx(0.1)


def line(seed=0, steps=300, **changes):
    """Learn y = 2x - 1 from noisy points; return the parameters and the report."""
    weights = torch.zeros(2, requires_grad=True)

    def draw_loss(generator):
        x = torch.randn(32, generator=generator)
        noise = torch.randn(32, generator=generator)
        return ((weights[0] * x + weights[1] - (2 * x - 1 + 0.5 * noise)) ** 2).mean()

    config = LoopConfig(steps=steps, learning_rate=0.05, weight_decay=0.0, seed=seed, **changes)
    return weights.detach(), optimise(draw_loss, [weights], config)


class TestOptimise:
    def test_finds_the_answer_and_the_loss_goes_down(self):
        weights, report = line()
        assert weights.tolist() == pytest.approx([2, -1], abs=0.1)
        assert report.losses[-1] < report.losses[0] / 5
        assert report.steps == 300
        assert 90 <= len(report.losses) <= 110

    def test_the_same_seed_gives_the_same_weights(self):
        assert torch.equal(line(seed=3)[0], line(seed=3)[0])
        assert not torch.equal(line(seed=3)[0], line(seed=4)[0])

    def test_leaves_the_moving_average_and_not_the_last_step(self):
        """With a rate that never settles, an average of many steps is nearer than most of them."""
        weight = torch.zeros(1, requires_grad=True)
        seen = []

        def draw_loss(generator):
            seen.append(float(weight.detach()))
            return (weight - torch.randn(1, generator=generator)).abs().sum()

        optimise(draw_loss, [weight], LoopConfig(steps=200, learning_rate=0.3, average=0.25))
        tail = torch.tensor(seen[100:])
        found = float(weight.detach())
        assert found not in seen
        assert tail.min() < found < tail.max()
        assert abs(found) < tail.abs().mean() + tail.std()

    def test_steps_can_be_measured_from_seconds(self):
        weight = torch.zeros(1, requires_grad=True)
        report = optimise(
            lambda _: (weight**2).sum(), [weight], LoopConfig(seconds=0.05, learning_rate=0.1)
        )
        assert report.steps >= 1

    def test_neither_steps_nor_seconds_is_refused(self):
        weight = torch.zeros(1, requires_grad=True)
        with pytest.raises(ValueError, match="steps or seconds"):
            optimise(lambda _: (weight**2).sum(), [weight], LoopConfig())

    def test_what_is_saved_says_what_was_done(self):
        config = LoopConfig(steps=300, learning_rate=0.05)
        told = line()[1].describe(config)
        assert (told["steps"], told["learning_rate"]) == (300, 0.05)
        assert told["final_loss"] < 1
