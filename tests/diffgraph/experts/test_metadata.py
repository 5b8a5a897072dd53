"""What a header says, and what anybody may write into it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffgraph.errors import DamagedFile
from diffgraph.experts.base_models import evidence
from diffgraph.experts.peft_configuration import (
    PEFT_FILE,
    PEFT_METADATA,
    PeftConfiguration,
    Scale,
)
from diffgraph.experts.weights_file import open_weights


def alphas(folder: Path, config: Any, **metadata: str) -> PeftConfiguration:
    text = config if isinstance(config, str) else json.dumps(config)
    path = folder / "lora.safetensors"
    save_file({"x": torch.zeros(1)}, path, {PEFT_METADATA: text, **metadata})
    file = open_weights(path)
    return PeftConfiguration.of(file)


def test_a_component_has_its_own_alpha(tmp_path: Path) -> None:
    found = alphas(tmp_path, {"transformer.lora_alpha": 8, "lora_alpha": 4, "use_rslora": True})
    assert found.scale("transformer.proj_out") == Scale(8.0, None, True)
    assert found.scale("text_encoder.encoder.layers.0.mlp.fc1") == Scale(4.0, None, True)


@pytest.mark.parametrize(
    ("ours", "theirs", "alpha"),
    [
        ("unet.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_in", 2.0),
        ("unet.down_blocks.0.attentions.0.proj_in", "", 3.0),  # the first that fits
        ("unet.down_blocks.0.attentions.0.xproj_in", "", 16.0),
        (
            "text_encoder.encoder.layers.0.mlp.fc1",  # transformers 5's name
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
            5.0,
        ),
        (
            "transformer.transformer_blocks.0.attn.to_q",
            "base_model.model.double_blocks.0.img_attn.qkv",
            7.0,
        ),
    ],
)
def test_single_modules_have_their_own_alpha(
    tmp_path: Path, ours: str, theirs: str, alpha: float
) -> None:
    pattern = {
        "mid_block.attentions.0.proj_in": 2,
        "proj_in": 3,
        "text_model.encoder.layers.0.mlp.fc1": 5,
        "double_blocks.0.img_attn.qkv": 7,
    }
    found = alphas(tmp_path, {"lora_alpha": 16, "alpha_pattern": pattern})
    assert found.scale(ours, theirs) == Scale(alpha)


@pytest.mark.parametrize(
    ("pattern", "alpha"),
    [
        ("mid_block.*to_q", 2.0),
        ("^proj_out", 2.0),
        ("(a+)+$", 16.0),
        ("(?=p)", 16.0),
    ],
)
def test_patterns_mean_what_they_mean_to_peft(tmp_path: Path, pattern: str, alpha: float) -> None:
    found = alphas(tmp_path, {"lora_alpha": 16, "transformer.alpha_pattern": {pattern: 2}})
    assert alpha in {
        found.scale("transformer.mid_block.attentions.0.to_q").alpha,
        found.scale("transformer.proj_out", "base_model.model.transformer.proj_out").alpha,
    }
    inner = found.scale("transformer.single_transformer_blocks.0.proj_out")
    assert inner == Scale(16.0)


def test_too_many_patterns_are_refused(tmp_path: Path) -> None:
    pattern = {f"(.|{number})*": 2 for number in range(1000)}
    with pytest.raises(DamagedFile, match=r"lora\.safetensors.*characters of patterns"):
        alphas(tmp_path, {"lora_alpha": 16, "alpha_pattern": pattern}).scale("unet.conv_in")


@pytest.mark.parametrize("alpha", ["8", [8], True, float("nan"), float("inf")])
def test_an_alpha_is_a_number(tmp_path: Path, alpha: Any) -> None:
    with pytest.raises(DamagedFile, match=r"not a number|no finite number"):
        alphas(tmp_path, {"lora_alpha": alpha}).scale("unet.conv_in")


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_configuration_is_an_object(tmp_path: Path, text: str) -> None:
    with pytest.raises(DamagedFile, match=r"lora\.safetensors"):
        alphas(tmp_path, text)


def test_no_configuration_states_no_alpha(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "lora.safetensors")
    file = open_weights(tmp_path / "lora.safetensors")
    assert PeftConfiguration.of(file).scale("unet.conv_in") == Scale()
    (tmp_path / PEFT_FILE).write_text(json.dumps({"lora_alpha": 3}))
    assert PeftConfiguration.of(file).scale("unet.conv_in") == Scale(3.0)


def test_evidence_is_short_and_harmless() -> None:
    found = evidence({"ss_base_model_version": "sd\n\x1b[31m" + 500 * "x", "other": "secret"})
    assert len(found) == 1
    assert found[0].startswith("ss_base_model_version=sd\\n\\x1b[31mxxx")
    assert len(found[0]) < 130
