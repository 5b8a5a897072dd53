"""FLUX against diffusers' own pipeline, and the places it is loaded from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.families import SamplerConfig
from diffgraph.families.flux import load
from diffgraph.families.flux_model import packed, unpacked

SAMPLER = SamplerConfig(steps=4, guidance=3.5)
PROMPTS = ["a red fox", "two cups on a table"]


@pytest.fixture(scope="module")
def model(tiny_flux_folder: Path) -> Any:
    model = load("cpu", torch.float32, place=str(tiny_flux_folder))
    model.resolution = 32
    return model


def assert_images_are_the_pipelines(model: Any, folder: Path) -> None:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = model.noise([3, 4])
    theirs = pipeline(
        PROMPTS,
        num_inference_steps=SAMPLER.steps,
        guidance_scale=SAMPLER.guidance,
        latents=pipeline._pack_latents(noise, *noise.shape),
        height=32,
        width=32,
        max_sequence_length=48,
        output_type="pt",
    ).images
    ours = model.sample(PROMPTS, [3, 4], SAMPLER)
    assert ours.shape == (2, 3, 32, 32)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_images_are_those_of_diffusers_pipeline(model: Any, tiny_flux_folder: Path) -> None:
    assert_images_are_the_pipelines(model, tiny_flux_folder)


def test_its_components_make_diffusers_pipeline(model: Any) -> None:
    from diffusers import FluxPipeline

    pipeline = model.pipeline()
    assert type(pipeline) is FluxPipeline
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS[0],
        num_inference_steps=SAMPLER.steps,
        guidance_scale=SAMPLER.guidance,
        generator=torch.Generator("cpu").manual_seed(3),
        height=32,
        width=32,
        max_sequence_length=48,
        output_type="pt",
    ).images
    torch.testing.assert_close(model.sample(PROMPTS[:1], [3], SAMPLER), theirs, rtol=0, atol=1e-4)


def test_without_guidance_built_in_too(tiny_flux_folder: Path, tmp_path: Path) -> None:
    """FLUX.1 schnell: no guidance to embed, noise levels that do not depend on the size."""
    folder = tmp_path / "schnell"
    shutil.copytree(tiny_flux_folder, folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "guidance_embeds": False}))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    stored = load_file(weights)
    save_file({key: stored[key] for key in stored if "guidance_embedder" not in key}, weights)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    changes = {"use_dynamic_shifting": False, "shift": 1.0}
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), **changes}))
    model = load("cpu", torch.float32, place=str(folder))
    model.resolution = 32
    assert not any("guidance" in name for name in model.parameters())
    assert_images_are_the_pipelines(model, folder)


def test_it_draws_in_the_precision_it_was_published_in(tiny_flux_folder: Path, model: Any) -> None:
    published = load("cpu", place=str(tiny_flux_folder))
    published.resolution = 32
    assert {value.dtype for value in published.parameters().values()} == {torch.bfloat16}
    image = published.sample(PROMPTS[:1], [3], SAMPLER)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, model.sample(PROMPTS[:1], [3], SAMPLER), rtol=0, atol=0.1)


def test_patches_are_undone() -> None:
    latents = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    assert packed(latents).shape == (2, 12, 16)
    assert torch.equal(unpacked(packed(latents), 6, 8), latents)
