import json

import pytest
import torch

from diffgraph.errors import DamagedFile, InputError, MissingInput
from diffgraph.families import get_family
from diffgraph.families.emoji64.scorers import SCORERS
from diffgraph.families.emoji64.scorers.learned import CONFIG, WEIGHTS
from diffgraph.scoring import SCORE_NAMES, get_scorers, score
from recipes.emoji64.scorer_files import untrained, write_scorer

PROMPTS = ["a dog", "a red apple at night, in a red frame", "", "a dog", "ein Hund \U0001f436"]
SIZE_LIMIT, PARAMETER_LIMIT = 1_300_000, 1_000_000
VOCABULARY = 2000  # the family's


@pytest.fixture(scope="module")
def tokenizer(tiny_model_parts):
    return tiny_model_parts[0].tokenizer


@pytest.fixture(params=sorted(SCORERS))
def scorer(request, tokenizer):
    return untrained(SCORERS[request.param], tokenizer, seed=3)


@pytest.fixture
def images():
    return torch.rand(len(PROMPTS), 3, 64, 64, generator=torch.Generator().manual_seed(0))


class TestEveryScorer:
    def test_gives_one_finite_number_an_image(self, scorer, images):
        scores = scorer(images, PROMPTS)
        assert scores.shape == (len(PROMPTS),)
        assert scores.dtype == torch.float32
        assert scores.device.type == "cpu"
        assert torch.isfinite(scores).all()

    def test_does_not_depend_on_its_neighbours(self, scorer, images):
        one_by_one = torch.cat(
            [scorer(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(len(PROMPTS))]
        )
        torch.testing.assert_close(scorer(images, PROMPTS), one_by_one, atol=1e-3, rtol=1e-4)

    def test_many_images_are_scored_like_few(self, scorer, images):
        many = scorer(images[:1].expand(130, -1, -1, -1), PROMPTS[:1] * 130)
        torch.testing.assert_close(
            many, scorer(images[:1], PROMPTS[:1]).expand(130), atol=1e-3, rtol=1e-4
        )

    def test_scores_no_images(self, scorer):
        assert scorer(torch.zeros(0, 3, 64, 64), []).shape == (0,)

    def test_takes_images_of_other_sizes(self, scorer):
        assert torch.isfinite(scorer(torch.rand(1, 3, 96, 80), ["a dog"])).all()

    def test_refuses_a_prompt_too_few(self, scorer, images):
        with pytest.raises(InputError, match="for 1 prompts"):
            scorer(images, ["a dog"])

    def test_reads_what_it_wrote(self, scorer, images, tokenizer, tmp_path):
        write_scorer(scorer, tmp_path)
        again = type(scorer).load(tmp_path, tokenizer)
        torch.testing.assert_close(
            again(images, PROMPTS), scorer(images, PROMPTS), atol=0.5, rtol=0.02
        )
        assert (tmp_path / WEIGHTS).stat().st_size < SIZE_LIMIT

    def test_keeps_matrices_to_half_a_step_of_a_byte_and_the_rest_in_half_precision(
        self, scorer, tokenizer, tmp_path
    ):
        write_scorer(scorer, tmp_path)
        kept = type(scorer).load(tmp_path, tokenizer).network.state_dict()
        for name, value in scorer.network.state_dict().items():
            if value.ndim < 2:
                torch.testing.assert_close(kept[name], value, atol=1e-6, rtol=1e-3)
            else:
                step = value.flatten(1).abs().amax(1) / 127
                error = (kept[name] - value).flatten(1).abs().amax(1)
                assert (error <= 0.6 * step + 1e-6).all(), name

    def test_reads_weights_in_half_precision_as_well(self, scorer, images, tokenizer, tmp_path):
        from safetensors.torch import save_file

        write_scorer(scorer, tmp_path)
        halves = {name: value.half() for name, value in scorer.network.state_dict().items()}
        save_file(halves, tmp_path / WEIGHTS)
        again = type(scorer).load(tmp_path, tokenizer)
        torch.testing.assert_close(
            again(images, PROMPTS), scorer(images, PROMPTS), atol=0.5, rtol=0.02
        )

    def test_stays_within_its_size(self, scorer):
        network = type(scorer).build(VOCABULARY, VOCABULARY - 1)
        assert sum(value.numel() for value in network.parameters()) <= PARAMETER_LIMIT

    def test_reads_the_prompt_unless_it_judges_the_image_alone(self, scorer, images):
        same = images[:1].expand(2, -1, -1, -1)
        first, second = scorer(same, ["a dog", "a red apple at night"])
        if scorer.name == "aesthetic_score":
            assert float(first) == pytest.approx(float(second), abs=1e-4)
        elif scorer.name != "clip_score":  # untrained, its cosine may be below zero, which is cut
            assert float(first) != float(second)


class TestLoading:
    def test_names_a_missing_file(self, tokenizer, tmp_path):
        with pytest.raises(MissingInput, match=r"config\.json is missing"):
            SCORERS["hps"].load(tmp_path, tokenizer)

    def test_refuses_damaged_weights(self, tokenizer, tmp_path):
        write_scorer(untrained(SCORERS["hps"], tokenizer), tmp_path)
        (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
        with pytest.raises(DamagedFile, match="scorer hps"):
            SCORERS["hps"].load(tmp_path, tokenizer)

    def test_refuses_another_scorers_file(self, tokenizer, tmp_path):
        write_scorer(untrained(SCORERS["hps"], tokenizer), tmp_path)
        config = json.loads((tmp_path / CONFIG).read_text())
        (tmp_path / CONFIG).write_text(json.dumps({**config, "name": "pick_score"}))
        with pytest.raises(DamagedFile, match="pick_score"):
            SCORERS["hps"].load(tmp_path, tokenizer)

    def test_scores_come_in_the_scorers_order(self, tokenizer, images):
        scorers = {name: untrained(kind, tokenizer) for name, kind in SCORERS.items()}
        table = score(scorers, images, PROMPTS)
        assert table.shape == (len(PROMPTS), len(SCORE_NAMES))
        torch.testing.assert_close(table[:, 4], scorers["hps"](images, PROMPTS))


SHIPPED = (get_family("emoji64").assets or CONFIG) / "scorers"


class TestShipped:
    def test_all_five_are_there_and_small(self):
        assert tuple(get_scorers("emoji64")) == SCORE_NAMES
        size = sum(file.stat().st_size for file in SHIPPED.rglob("*.safetensors"))
        assert size < 6_500_000

    def test_each_follows_the_truth_on_what_it_never_saw(self):
        for name in set(SCORE_NAMES) - {"aesthetic_score"}:
            config = json.loads((SHIPPED / name / CONFIG).read_text())
            assert config["training"]["test"]["within_prompt"] >= 0.6, name
