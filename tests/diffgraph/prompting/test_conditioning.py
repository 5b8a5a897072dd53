"""Prompts are encoded as compel encodes them, called directly on compel's own syntax.

The models are small and of the true architecture; `reference` never runs a line of ours.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compel import Compel, CompelForFlux, CompelForSD, ReturnedEmbeddingsType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffgraph.errors import InputError
from diffgraph.experts.delta import Coverage, Delta
from diffgraph.experts.updates import CheckpointUpdate, LowRankUpdate
from diffgraph.families import SamplerConfig
from diffgraph.families.flux import load as load_flux
from diffgraph.families.sd15 import load as load_sd15
from diffgraph.merging.apply import Merger
from diffgraph.merging.batched import rollouts

CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def sd15(tiny_sd15_folder: Path) -> Any:
    return spread(load_sd15("cpu", place=str(tiny_sd15_folder)))


@pytest.fixture(scope="module")
def flux(tiny_flux_folder: Path) -> Any:
    model = load_flux("cpu", torch.float32, place=str(tiny_flux_folder))
    model.tokenizer_2.model_max_length, model.resolution = 512, 32
    return spread(model)


def spread(model: Any) -> Any:
    """Make every token's states depend on the others' strongly, unlike in a fresh small model."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.parameters().items():
        if name.startswith("text_encoder") and value.ndim == 2:
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5)
    return model


def words(count: int) -> str:
    """Return so many letters, a token each, with phrases and sentences among them."""
    order = random.Random(count)
    marks = [order.choice("abcdefgh") + order.choice(["", "", "", ",", "."]) for _ in range(count)]
    return " ".join(marks)


LONG, LONGER = words(150), words(200)

# A1111's syntax, as we read it; the same in compel's
SAME = {
    "plain": ("a red fox", "a red fox"),
    "heavier": ("a (red:1.4) fox", "a (red)1.4 fox"),
    "one bracket": ("a (red) fox", "a (red)1.1 fox"),
    "lighter": ("a (red:0.4) fox, (at:0.8) night", "a (red)0.4 fox, (at)0.8 night"),
    "nothing": ("a (red:0) fox", "a (red)0.0 fox"),
    "both": ("(a:1.3) cat (b:0.6) hat", "(a)1.3 cat (b)0.6 hat"),
    "nested": ("(a (red:2) fox:1.5)", "(a (red)2.0 fox)1.5"),
    "long": (LONGER, LONGER),
    "long and heavy": (f"(x:1.5) {LONG}, (y z:1.2)", f"(x)1.5 {LONG}, (y z)1.2"),
    "long and light": (f"(x:0.5) {LONG}, (y z:0.7)", f"(x)0.5 {LONG}, (y z)0.7"),
    "break": ("a cat BREAK a (hat:1.2)", '("a cat", "a (hat)1.2").and()'),
    "long break": (f"{LONG} BREAK hat", f'("{LONG}", "hat").and()'),
}


@pytest.mark.parametrize("kind", SAME)
def test_sd15_reads_a_prompt_as_compel_does(sd15: Any, kind: str) -> None:
    ours, theirs = SAME[kind]
    reference = CompelForSD(sd15.pipeline())(theirs).embeds
    found = sd15.conditioning([ours])["prompt_embeds"]
    assert found.shape == reference.shape
    torch.testing.assert_close(found, reference, **CLOSE)


@pytest.mark.parametrize("kind", ["plain", "heavier", "lighter", "both", "nested"])
def test_a_weight_changes_the_states_far_more_than_we_tolerate(sd15: Any, kind: str) -> None:
    ours = SAME[kind][0]
    bare = sd15.conditioning(["a red fox" if "red" in ours else "a cat b hat"])["prompt_embeds"]
    apart = (sd15.conditioning([ours])["prompt_embeds"] - bare).abs().max()
    assert (apart > 1e-2) == (kind != "plain")


@pytest.mark.parametrize("negative", ["blurry", "(bad:1.4) hands", LONGER, "a BREAK b BREAK c"])
@pytest.mark.parametrize("positive", ["a red fox", LONG])
def test_a_negative_of_another_length_is_read_as_compel_does(
    sd15: Any, positive: str, negative: str
) -> None:
    theirs = {"(bad:1.4) hands": "(bad)1.4 hands", "a BREAK b BREAK c": '("a", "b", "c").and()'}
    reference = CompelForSD(sd15.pipeline())(positive, theirs.get(negative, negative))
    found = sd15.conditioning([f"{positive}\nNegative prompt: {negative}"])
    torch.testing.assert_close(found["prompt_embeds"], reference.embeds, **CLOSE)
    torch.testing.assert_close(found["negative_prompt_embeds"], reference.negative_embeds, **CLOSE)


def test_a_batch_of_short_and_long_prompts_is_read_as_compel_does(sd15: Any) -> None:
    kinds = ("plain", "long and light", "heavier", "break")
    negatives = ["x", LONG, "y", "z"]
    ours = [f"{SAME[k][0]}\nNegative prompt: {n}" for k, n in zip(kinds, negatives, strict=True)]
    reference = CompelForSD(sd15.pipeline())([SAME[kind][1] for kind in kinds], negatives)
    found = sd15.conditioning(ours)
    torch.testing.assert_close(found["prompt_embeds"], reference.embeds, **CLOSE)
    torch.testing.assert_close(found["negative_prompt_embeds"], reference.negative_embeds, **CLOSE)


@pytest.mark.parametrize("kind", ["plain", "heavier", "lighter", "long and light"])
def test_clip_skip_two_is_compels_penultimate_layer(sd15: Any, kind: str) -> None:
    ours, theirs = SAME[kind]
    encoder = sd15.text_encoder

    class Older:  # compel looks for the norm where transformers 4 had it
        text_model = SimpleNamespace(final_layer_norm=encoder.final_layer_norm)
        device, dtype = encoder.device, encoder.dtype

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return encoder(*args, **kwargs)

    layer = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED
    compel = Compel(
        sd15.tokenizer, Older(), truncate_long_prompts=False, returned_embeddings_type=layer
    )
    found = sd15.conditioning([ours], SamplerConfig(clip_skip=2))["prompt_embeds"]
    torch.testing.assert_close(found, compel(theirs), **CLOSE)
    assert (found - sd15.conditioning([ours])["prompt_embeds"]).abs().max() > 1e-2
    pasted = f"{ours}\nSteps: 20, Clip skip: 2"
    assert torch.equal(found, sd15.conditioning([pasted])["prompt_embeds"])


def test_a_layer_that_is_not_there_is_refused(sd15: Any) -> None:
    with pytest.raises(InputError, match="clip skip is from 1 to 2 for sd15, not 3"):
        sd15.conditioning(["a"], SamplerConfig(clip_skip=3))


@pytest.mark.parametrize("kind", [kind for kind in SAME if "break" not in kind])
def test_flux_reads_a_prompt_as_compel_does(flux: Any, kind: str) -> None:
    ours, theirs = SAME[kind]
    reference = CompelForFlux(flux.pipeline())(theirs)
    found = flux.conditioning([ours])
    torch.testing.assert_close(found["prompt_embeds"], reference.embeds, **CLOSE)
    torch.testing.assert_close(found["pooled_prompt_embeds"], reference.pooled_embeds, **CLOSE)


def test_flux_reads_a_batch_as_compel_does(flux: Any) -> None:
    ours, theirs = zip(*(SAME[kind] for kind in ("plain", "long and light", "nested")), strict=True)
    reference = CompelForFlux(flux.pipeline())(list(theirs))
    found = flux.conditioning(ours)
    torch.testing.assert_close(found["prompt_embeds"], reference.embeds, **CLOSE)
    torch.testing.assert_close(found["pooled_prompt_embeds"], reference.pooled_embeds, **CLOSE)


@pytest.mark.parametrize("weigh", ["{}", "(x:1.5) {}"])
def test_flux_says_what_is_beyond_its_tokens(flux: Any, caplog: Any, weigh: str) -> None:
    flux.conditioning([weigh.format(words(90))])
    assert not caplog.messages
    flux.conditioning([weigh.format("a " * 300)])
    assert [message.partition(":")[2] for message in caplog.messages] == [
        " this model reads 512 of them, the end is not drawn"
    ]


def test_flux_says_what_it_has_not(flux: Any, caplog: Any) -> None:
    plain = flux.conditioning(["a cat"])
    found = flux.conditioning(["a cat\nNegative prompt: hat\nSteps: 2, Clip skip: 2"])
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "flux has no negative prompt",
        "flux has no clip skip",
    ]
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    spaced = flux.conditioning(["a BREAK cat"])
    assert all(torch.equal(spaced[name], plain[name]) for name in plain)


def test_a_negative_prompt_without_guidance_is_said(sd15: Any, caplog: Any) -> None:
    prompt = ["a cat\nNegative prompt: hat"]
    sd15.conditioning(prompt, SamplerConfig(guidance=1.5))
    assert not caplog.messages
    sd15.conditioning(prompt, SamplerConfig(guidance=1))
    assert caplog.messages == ["a negative prompt does nothing at guidance 1, only above 1"]


def test_a_prompt_that_is_too_long_is_refused(sd15: Any) -> None:
    with pytest.raises(InputError, match="50000 tokens is too long: it may have 1500"):
        sd15.sample(["a " * 50_000], [0])
    with pytest.raises(InputError, match="too long"):
        sd15.sample(["a BREAK " * 30 + "a"], [0])
    with pytest.raises(InputError, match="300 parts of a prompt weigh less than 1"):
        sd15.sample(["[a] b " * 300], [0])


@given(st.text(max_size=40) | st.text(alphabet="ab ,.:()[]<|endoftext|>\n0.5", max_size=60))
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=25)
def test_whatever_is_written_is_encoded(sd15: Any, text: str) -> None:
    for states in sd15.conditioning([text]).values():
        assert states.isfinite().all()


def test_the_encoder_of_a_merge_reads_weighted_prompts(sd15: Any) -> None:
    """What experts change in the text encoder is in the states, and nothing of it stays."""
    merger, prompt = Merger(sd15), "a (red:0.5) (fox:1.3)"
    before = sd15.conditioning([prompt])["prompt_embeds"]
    name = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    down = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    update = LowRankUpdate(torch.ones(64, 1), down, 1.0, (64, 32))
    merger.apply({"one": 1.0}, {"one": Delta({name: update}, "lora", Coverage())})
    merged = sd15.conditioning([prompt])["prompt_embeds"]
    reference = CompelForSD(sd15.pipeline())("a (red)0.5 (fox)1.3").embeds
    torch.testing.assert_close(merged, reference, **CLOSE)
    assert (merged - before).abs().max() > 1e-2
    merger.reset()
    assert torch.equal(sd15.conditioning([prompt])["prompt_embeds"], before)


ROLLOUTS = (
    "a (red:0.5) fox\nNegative prompt: hat",
    f"a cat, {words(20)}\nNegative prompt: (dog:1.2)",
    "a [hat] BREAK cup\nNegative prompt: hat",
    "a plain cup",
    "a BREAK b\nNegative prompt: (hat:0.5)",
)


@pytest.mark.parametrize("name", ["layers.0.mlp.fc1.weight", "position_embedding.weight"])
def test_plans_that_share_a_pass_each_read_with_their_own_encoder(
    tiny_model: Any, name: str
) -> None:
    merger = Merger(tiny_model)
    full = next(other for other in merger.base if other.endswith(name))
    base = merger.base[full]
    moved = base + 0.3 * torch.randn(base.shape, generator=torch.Generator().manual_seed(2))
    deltas = {"one": Delta({full: CheckpointUpdate(moved, base)}, "checkpoint", Coverage())}
    alike = tiny_model.alike(ROLLOUTS)
    assert sorted(map(len, alike)) == [2, 3]
    for places in alike:
        prompts, plans = [ROLLOUTS[p] for p in places], [{"one": 0.3 * p} for p in places]
        with rollouts(merger, plans, deltas) as model:
            together = model.sample(prompts, places)
        for place, plan in enumerate(plans):
            merger.apply(plan, deltas)
            alone = tiny_model.sample([prompts[place]], [places[place]])
            torch.testing.assert_close(together[place], alone[0], **CLOSE)
        merger.reset()


def test_an_image_does_not_depend_on_its_neighbours_length(sd15: Any) -> None:
    prompts = ["a fox", LONG, "a (fox:1.2)", "a fox\nSteps: 2, Clip skip: 2"]
    sampler = SamplerConfig(steps=2, guidance=4.0)
    together = sd15.sample(prompts, [1, 2, 3, 4], sampler)
    for place, prompt in enumerate(prompts):
        alone = sd15.sample([prompt], [place + 1], sampler)
        assert (together[place] - alone[0]).abs().max() < 1 / 255
    filled_up = [states[:1] for states in sd15.conditioning(prompts[:2]).values()]
    other = sd15.decode(sd15.denoise(*filled_up, sd15.noise([1]), sampler))
    assert (together[0] - other[0]).abs().max() > 1 / 255


def test_a_pipeline_draws_a_weighted_prompt_from_its_states(sd15: Any, flux: Any) -> None:
    prompt = f"a (red:1.3) [fox], {words(80)}"
    sampler = SamplerConfig(steps=2, guidance=4.0)
    for model in (sd15, flux):
        written = prompt + ("\nNegative prompt: (hat:1.2)" if model is sd15 else "")
        pipeline = model.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        side = model.noise_shape[-1] * pipeline.vae_scale_factor
        theirs = pipeline(
            **model.conditioning([written]),
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=torch.Generator("cpu").manual_seed(3),
            height=side,
            width=side,
            output_type="pt",
        ).images
        torch.testing.assert_close(model.sample([written], [3], sampler), theirs, **CLOSE)


def test_a_default_leaves_identities_as_they_were() -> None:
    assert SamplerConfig().model_dump() == {"steps": 12, "guidance": 4.0}
    assert SamplerConfig(clip_skip=2).model_dump(mode="json")["clip_skip"] == 2
    assert SamplerConfig.model_validate_json(SamplerConfig(clip_skip=2).model_dump_json()) == (
        SamplerConfig(clip_skip=2)
    )
