"""Can every treatment be seen, told from the others, and combined in one order?"""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from diffgraph.errors import InputError
from recipes.emoji64.treatments import (
    TREATMENTS,
    Stage,
    compatible_sets,
    compose,
    is_compatible,
    ordered,
)


def subjects() -> tuple[Tensor, Tensor]:
    """Two drawn subjects: a shaded disc with eyes, and a two-coloured house."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    rgb, alpha = torch.zeros(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    alpha[0, 0] = ((rows - 32).square() + (columns - 32).square() < 26**2).float()
    rgb[0] = torch.stack((0.5 + rows / 128, 0.8 - rows / 160, columns / 128))
    for column in (22, 42):
        rgb[0] *= ((rows - 26).square() + (columns - column).square() > 16).float()
    alpha[1, 0, 14:52, 13:51] = 1
    rgb[1, :, :30] = torch.tensor((0.8, 0.15, 0.1)).view(3, 1, 1)
    rgb[1, :, 30:] = torch.tensor((0.95, 0.85, 0.6)).view(3, 1, 1)
    rgb[1, :, 38:52, 26:38] = torch.tensor((0.2, 0.3, 0.7)).view(3, 1, 1)
    return rgb * alpha, alpha


def difference(first: Tensor, second: Tensor) -> float:
    return (first - second).abs().mean(dim=(1, 2, 3)).min().item()


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_treatment_can_be_seen_and_repeated(name: str) -> None:
    rgb, alpha = subjects()
    plain, treated = compose(rgb, alpha, []), compose(rgb, alpha, [name])
    assert treated.shape == plain.shape
    assert treated.min() >= 0
    assert treated.max() <= 1
    assert treated.isfinite().all()
    assert difference(plain, treated) > 0.02
    assert torch.equal(treated, compose(rgb, alpha, [name]))


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_treatment_leaves_its_input_alone_and_keeps_rows_apart(name: str) -> None:
    rgb, alpha = subjects()
    before = rgb.clone()
    both = compose(rgb, alpha, [name])
    assert torch.equal(rgb, before)
    assert torch.allclose(both[1:], compose(rgb[1:], alpha[1:], [name]), atol=1e-5)


def test_no_two_treatments_look_alike() -> None:
    rgb, alpha = subjects()
    seen = {name: compose(rgb, alpha, [name]) for name in TREATMENTS}
    for first, second in combinations(TREATMENTS, 2):
        assert difference(seen[first], seen[second]) > 0.02, (first, second)


def test_every_treatment_of_a_compatible_pair_can_be_seen() -> None:
    rgb, alpha = subjects()
    single = {name: compose(rgb, alpha, [name]) for name in TREATMENTS}
    for pair in compatible_sets(2):
        together = compose(rgb, alpha, pair)
        for name in pair:
            assert difference(single[name], together) > 0.005, pair


def test_the_order_of_names_makes_no_difference() -> None:
    rgb, alpha = subjects()
    names = ("red_frame", "sepia", "starry", "pixel_art")
    assert [treatment.name for treatment in ordered(names)] == [
        "pixel_art",
        "starry",
        "sepia",
        "red_frame",
    ]
    assert torch.equal(compose(rgb, alpha, names), compose(rgb, alpha, names[::-1]))


def test_a_frame_lies_over_a_tint_and_a_tint_over_a_background() -> None:
    rgb, alpha = subjects()
    framed = compose(rgb, alpha, ["night", "red_frame"])
    assert torch.allclose(framed[0, :, 1, 1], torch.tensor((0.88, 0.08, 0.1)), atol=1e-4)
    stars = compose(rgb, alpha, ["starry"])
    assert torch.allclose(compose(rgb, alpha, ["starry", "inverted"]), 1 - stars, atol=1e-5)


def test_the_stages_come_in_order() -> None:
    stages = [treatment.stage for treatment in TREATMENTS.values()]
    assert stages == sorted(stages)
    assert set(stages) == set(Stage)


def test_an_unknown_treatment_is_named() -> None:
    rgb, alpha = subjects()
    with pytest.raises(InputError, match="'steampunk'"):
        compose(rgb, alpha, ["steampunk"])


def test_treatments_that_hide_each_other_are_not_combined() -> None:
    assert not is_compatible(["starry", "sunset"])
    assert not is_compatible(["noir", "golden"])
    assert is_compatible(["pixel_art", "night", "red_frame"])
    assert len(compatible_sets(1)) == len(TREATMENTS)
    assert all(is_compatible(names) for names in compatible_sets(3)[::50])


def test_phrases_are_unambiguous() -> None:
    phrases = [phrase for treatment in TREATMENTS.values() for phrase in treatment.phrases]
    assert len(phrases) == len(set(phrases))
    assert all(len(treatment.phrases) >= 3 for treatment in TREATMENTS.values())
