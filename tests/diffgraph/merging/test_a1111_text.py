"""What A1111 and Civitai read of an image, by parsers of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.families import get_family
from diffgraph.families.family import SamplerConfig
from diffgraph.merging.a1111_text import infotext
from diffgraph.merging.generation_settings import GenerationSettings
from diffgraph.merging.sources import BaseSource, MergeSources
from diffgraph.prompting.syntax import WrittenPrompt
from tests.infotext import as_a1111, as_civitai
from tests.merge_sources import sources


def drawing(
    text: str = "a (red:1.2) cat", family: str = "sd15", negative: str = ""
) -> GenerationSettings:
    sampler = SamplerConfig(steps=25, guidance=7.5)
    written = WrittenPrompt(text, negative)
    return GenerationSettings(get_family(family), written, sampler, 7, 512, 768)


def test_what_a1111_sets_when_the_text_is_pasted() -> None:
    found = as_a1111(infotext(sources(a=0.8, b=-0.25), drawing(negative="blurry, [hands]")))
    assert found.prompt == "a (red:1.2) cat <lora:pencil v2:0.8> <lora:night, (x):-0.25>"
    assert found.negative == "blurry, [hands]"
    assert found.tags == [("lora", "pencil v2", "0.8"), ("lora", "night, (x)", "-0.25")]
    wanted = {"Steps": "25", "Sampler": "DPM++ 2M", "Schedule type": "Uniform",
              "CFG scale": "7.5", "Seed": "7", "Size": "512x768", "Model hash": "ba5eba5eba",
              "Model": "v1-5-pruned", "RNG": "CPU"}  # fmt: skip
    assert wanted.items() <= found.settings.items()
    assert found.lora_hashes == {"pencil v2": "a" * 12, "night (x)": "b" * 12}
    assert found.settings["Version"].startswith("diffgraph ")
    assert "Diffgraph" not in found.settings


def test_what_civitai_finds_pages_by() -> None:
    text = infotext(sources(a=0.8, b=-0.25), drawing(negative="blurry"))
    prompt, negative, hashes = as_civitai(text)
    assert prompt.startswith("a (red:1.2) cat <lora:")
    assert negative == "blurry"
    assert hashes == {"model": "ba5eba5eba", "lora:pencil v2": "6161616161",
                      "lora:night (x)": "6262626262"}  # fmt: skip


def test_two_files_of_one_name_are_both_credited() -> None:
    files = {"h:a@1": "x/ink.safetensors", "h:b@1": "y/ink.safetensors"}
    text = infotext(sources(files=files, a=0.8, b=0.5), drawing())
    assert as_a1111(text).lora_hashes == {"ink": "a" * 12, "ink (2)": "b" * 12}
    assert {"lora:ink": "6161616161", "lora:ink (2)": "6262626262"}.items() <= as_civitai(text)[
        2
    ].items()


def test_a_whole_checkpoint_is_the_model() -> None:
    text = infotext(sources(a=0.8, m=1), drawing())
    settings = as_a1111(text).settings
    assert (settings["Model hash"], settings["Model"]) == ("6d6d6d6d6d", "one")
    assert as_civitai(text)[2] == {"model": "6d6d6d6d6d", "lora:pencil v2": "6161616161"}


def test_a_base_that_is_a_folder_has_a_name_and_no_hash() -> None:
    text = infotext(sources(base=BaseSource("stable-diffusion-v1-5")), drawing())
    settings = as_a1111(text).settings
    assert settings["Model"] == "stable-diffusion-v1-5"
    assert not {"Model hash", "Hashes", "Lora hashes"} & settings.keys()


@pytest.mark.parametrize(
    ("given", "why"),
    [(sources(m=0.5, a=1), "mixes checkpoints"), (sources(m=0.5, n=0.5, a=1), "mixes checkpoints"),
     (sources("ties", a=1, b=1), "the rule ties")],
)  # fmt: skip
def test_what_a1111_cannot_merge_is_credited_and_not_pretended(
    given: MergeSources, why: str
) -> None:
    text = infotext(given, drawing())
    found = as_a1111(text)
    assert found.tags == []
    assert not {"Model hash", "Lora hashes"} & found.settings.keys()
    assert why in found.settings["Diffgraph"]
    assert found.settings["Model"] == f"diffgraph {given.plan.id}"
    credited = set(as_civitai(text)[2].values())
    assert credited >= {expert.sha256[:10] for expert in given.experts.values()}


def test_distilled_guidance_is_said_as_forge_says_it() -> None:
    settings = as_a1111(infotext(sources(), drawing(family="flux"))).settings
    assert (settings["CFG scale"], settings["Distilled CFG Scale"]) == ("1", "7.5")
    assert (settings["Sampler"], settings["Schedule type"]) == ("Euler", "Simple")


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["a\nNegative prompt: b", "Steps: 3, Sampler: x, Seed: 9", "a, Negative prompt: b",
         'x", Seed: 3, Model hash: "y', "a\r\nSteps: 1, Seed: 2, Size: 3x3", "\u2028Steps: 1",
         "a\0b", "\ud800", 'Hashes: {"model": "0"}', "}, Seed: 3", "\\"]
    ),
)  # fmt: skip


@given(text=HOSTILE, negative=HOSTILE, name=HOSTILE, other=HOSTILE, base=HOSTILE)
def test_no_prompt_and_no_name_breaks_the_form(
    text: str, negative: str, name: str, other: str, base: str
) -> None:
    files = {"h:a@1": f"{name}.safetensors", "h:b@1": f"{other}2.safetensors"}
    told = infotext(
        sources(base=BaseSource(base), files=files, a=0.8, b=0.5), drawing(text, negative=negative)
    )
    told.encode()
    found = as_a1111(told)
    plain = as_a1111(infotext(sources(base=BaseSource("base"), a=0.8, b=0.5), drawing("a cat")))
    assert {**found.settings, "Model": "base"}.keys() >= plain.settings.keys()
    for key in ("Steps", "Sampler", "Seed", "Size", "Version"):
        assert found.settings[key] == plain.settings[key]
    assert "Model hash" not in found.settings
    assert len(found.lora_hashes) == 2
    assert [tag[2] for tag in found.tags if tag[0] == "lora"][-2:] == ["0.8", "0.5"]
    assert bool(found.negative) <= bool(negative.strip())
    prompt, _, hashes = as_civitai(told)
    assert len(hashes) == 2
    assert set(hashes.values()) == {"6161616161", "6262626262"}
    assert prompt.split() == found.prompt.split()
