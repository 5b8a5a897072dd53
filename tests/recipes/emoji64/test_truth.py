import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)

from recipes.emoji64.truth import Composition, closeness, closeness_to, composed, true_images


@pytest.fixture
def asked():
    return Composition(subject=1, style="flat", treatments=("night", "red_frame"))


@pytest.fixture
def place(few_pictures):
    return ((few_pictures.subject == 1) & (few_pictures.style == 3)).nonzero().flatten()


class TestCloseness:
    def test_is_one_for_the_same_image_and_symmetric(self):
        left, right = torch.rand(2, 4, 3, 64, 64).unbind()
        assert closeness(left, left).min() > 0.999
        torch.testing.assert_close(closeness(left, right), closeness(right, left))

    def test_falls_as_noise_rises(self):
        generator = torch.Generator().manual_seed(0)
        image = (
            torch.rand(1, 3, 8, 8, generator=generator)
            .repeat_interleave(8, 2)
            .repeat_interleave(8, 3)
        )
        noise = torch.randn(image.shape, generator=generator)
        values = [
            float(closeness((image + level * noise).clamp(0, 1), image))
            for level in (0, 0.05, 0.1, 0.3)
        ]
        assert values == sorted(values, reverse=True)
        assert values[0] - values[-1] > 0.1

    def test_prefers_dots_elsewhere_to_a_grey_average(self):
        dots = torch.zeros(1, 1, 64, 64)
        dots[..., ::4, ::4] = dots[..., 1::4, ::4] = dots[..., ::4, 1::4] = dots[
            ..., 1::4, 1::4
        ] = 1
        dots = dots.expand(1, 3, 64, 64)
        elsewhere = dots.roll((1, 1), (2, 3))
        average = F.avg_pool2d(F.pad(dots, (4, 4, 4, 4), mode="reflect"), 9, stride=1)
        assert closeness(elsewhere, dots) > closeness(average, dots)


class TestTruth:
    def test_each_right_treatment_raises_it_and_a_wrong_one_lowers_it(
        self, few_pictures, asked, place
    ):
        truths = true_images(few_pictures, [asked])

        def value(*treatments):
            return float(closeness_to(composed(few_pictures, place, treatments), truths))

        assert value() < value("night") < value("night", "red_frame")
        assert value("night", "red_frame") == pytest.approx(1, abs=1e-3)
        assert value("night", "red_frame", "snow") < value("night", "red_frame")
        assert value("sepia") < value("night")

    def test_a_wrong_subject_lowers_it(self, few_pictures, asked, place):
        other = ((few_pictures.subject == 4) & (few_pictures.style == 3)).nonzero().flatten()
        truths = true_images(few_pictures, [asked])
        right, wrong = (
            closeness_to(composed(few_pictures, own, asked.treatments), truths)
            for own in (place, other)
        )
        assert wrong < right - 0.02

    def test_without_a_style_any_style_will_do(self, few_pictures, place):
        anything = true_images(few_pictures, [Composition(1)])
        assert anything.allowed.all()
        assert closeness_to(composed(few_pictures, place, ()), anything) > 0.99

    def test_only_the_style_asked_for_counts(self, few_pictures, asked):
        assert true_images(few_pictures, [asked]).allowed.tolist() == [
            [False, False, False, True, False]
        ]

    def test_refuses_what_is_not_drawn(self, few_pictures):
        with pytest.raises(ValueError, match="subject 99"):
            true_images(few_pictures, [Composition(99)])
