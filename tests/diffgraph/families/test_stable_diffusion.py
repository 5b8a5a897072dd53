"""Stable Diffusion 1.5 against diffusers' own pipeline, and the places it is loaded from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.families import SamplerConfig
from diffgraph.families.sd15 import load

SAMPLER = SamplerConfig(steps=4, guidance=7.5)
PROMPTS = ["a red fox", "two cups on a table"]


@pytest.fixture(scope="module")
def model(tiny_sd15_folder: Path) -> Any:
    return load("cpu", place=str(tiny_sd15_folder))


def test_images_are_those_of_diffusers_pipeline(model: Any, tiny_sd15_folder: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd15_folder, local_files_only=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = model.noise([3, 4])
    theirs = pipeline(
        PROMPTS,
        num_inference_steps=SAMPLER.steps,
        guidance_scale=SAMPLER.guidance,
        latents=noise,
        output_type="pt",
    ).images
    ours = model.sample(PROMPTS, [3, 4], SAMPLER)
    assert ours.shape == (2, 3, 64, 64)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_it_draws_in_half_precision(model: Any, tiny_sd15_folder: Path) -> None:
    once = SamplerConfig(steps=1, guidance=1.0)
    half = load("cpu", torch.bfloat16, place=str(tiny_sd15_folder))  # float16 is slow on a CPU
    image = half.sample(PROMPTS[:1], [3], once)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, model.sample(PROMPTS[:1], [3], once), rtol=0, atol=0.1)
