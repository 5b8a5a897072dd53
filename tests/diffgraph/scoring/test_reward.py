import pytest
import torch
from pydantic import ValidationError

from diffgraph.errors import InputError
from diffgraph.scoring import Reward


@pytest.fixture
def table():
    scale = torch.tensor([50.0, 100.0, 1.5, 2.0, 5.0])
    return torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * scale + 20


def test_is_the_mean_of_standardised_scores(table):
    reward = Reward.fit(table)
    expected = ((table - table.mean(0)) / table.std(0, unbiased=False)).mean(1)
    torch.testing.assert_close(reward.of(table), expected)
    assert abs(float(reward.of(table).mean())) < 1e-5


def test_no_score_outweighs_another_by_its_units(table):
    reward = Reward.fit(table)
    start = table[:1]
    gains = [
        float(reward.of(start + step) - reward.of(start))
        for step in torch.diag(table.std(0, unbiased=False)).unsqueeze(1)
    ]
    assert gains == pytest.approx([0.2] * 5, abs=1e-4)


def test_weights_count(table):
    only_first = Reward.fit(table, weights=(1, 0, 0, 0, 0))
    torch.testing.assert_close(only_first.of(table), only_first.standardised(table)[:, 0])


def test_survives_json(table):
    reward = Reward.fit(table)
    again = Reward.model_validate_json(reward.model_dump_json())
    assert again == reward


def test_a_score_that_never_varies_says_nothing(table):
    table[:, 2] = 5.0
    rewards = Reward.fit(table).of(table + torch.tensor([0, 0, 9.0, 0, 0]))
    assert torch.isfinite(rewards).all()
    torch.testing.assert_close(rewards, Reward.fit(table).of(table))


@pytest.mark.parametrize(
    "bad", [torch.zeros(0, 5), torch.zeros(3, 4), torch.full((2, 5), float("nan"))]
)
def test_refuses_a_table_it_cannot_be_fit_on(bad):
    with pytest.raises(InputError):
        Reward.fit(bad)


def test_refuses_weights_that_say_nothing():
    with pytest.raises(ValidationError, match="zero"):
        Reward(mean=(0,) * 5, spread=(1,) * 5, weights=(0,) * 5)
