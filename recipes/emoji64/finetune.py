"""How an expert is made: a full fine-tune of the base, or a peft adapter on it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from recipes.emoji64.community import Recipe
from recipes.emoji64.denoiser import TrainingData, train_denoiser
from recipes.emoji64.loop import LoopConfig, LoopReport
from recipes.emoji64.rounding import keep_what_ships, learn_as_shipped

BATCH = 256
ATTENTION = r".*attn2\.(to_q|to_k|to_v|to_out\.0)"
"""Cross-attention: where the words of a prompt reach the picture."""
FINE = r"conv_in|conv_out|(down_blocks\.[01]|up_blocks\.[12])\..*(conv1|conv2|conv_shortcut|conv)"
"""The convolutions at 16 and 8 latents a side: what frames, dots and lines are drawn with. The
coarse ones hold most of a file's bytes and add little to a visual treatment."""


def adapter_config(recipe: Recipe) -> Any:
    """Return peft's configuration for a recipe."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    targets = rf"({ATTENTION})|({FINE})"
    common: dict[str, Any] = {"r": recipe.rank, "target_modules": targets}
    if recipe.method == "loha":
        return LoHaConfig(**common, alpha=int(recipe.alpha))
    if recipe.method == "lokr":
        return LoKrConfig(**common, alpha=int(recipe.alpha), decompose_both=True)
    return LoraConfig(**common, lora_alpha=recipe.alpha, use_dora=recipe.method == "dora")


def train_adapter(
    unet: Any, text_encoder: Any, recipe: Recipe, data: TrainingData, batch: int = BATCH
) -> tuple[Any, LoopReport]:
    """Return a copy of the UNet with a trained adapter called `default`, and a report."""
    student = copy.deepcopy(unet).requires_grad_(False)
    student.add_adapter(adapter_config(recipe))
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    return student, _train(student, text_encoder, parameters, recipe, data, batch)


def train_checkpoint(
    unet: Any, text_encoder: Any, recipe: Recipe, data: TrainingData, batch: int = BATCH
) -> tuple[Any, LoopReport]:
    """Return a fully fine-tuned copy of the UNet, rounded as its file will be, and a report."""
    student = copy.deepcopy(unet).requires_grad_(True)
    if recipe.dtype == "fp8":
        learn_as_shipped(student, recipe.strength)
    report = _train(student, text_encoder, list(student.parameters()), recipe, data, batch)
    keep_what_ships(student)
    return student, report


def _train(
    student: Any,
    text_encoder: Any,
    parameters: Sequence[torch.Tensor],
    recipe: Recipe,
    data: TrainingData,
    batch: int,
) -> LoopReport:
    config = LoopConfig(
        steps=recipe.steps, learning_rate=recipe.learning_rate, seed=recipe.seed, weight_decay=1e-3
    )
    text_encoder = text_encoder.eval().requires_grad_(False)
    return train_denoiser(student, text_encoder, parameters, data, config, batch, recipe.slug)
