"""FLUX against diffusers' own pipeline, and the places it is loaded from."""

from pathlib import Path
from typing import Any

import pytest
import torch

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


def test_images_are_those_of_diffusers_pipeline(model: Any, tiny_flux_folder: Path) -> None:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(tiny_flux_folder, local_files_only=True)
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


def test_patches_are_undone() -> None:
    latents = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    assert packed(latents).shape == (2, 12, 16)
    assert torch.equal(unpacked(packed(latents), 6, 8), latents)
