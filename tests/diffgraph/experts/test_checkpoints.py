from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.errors import DamagedFile, FamilyMismatch, UnknownFormat
from diffgraph.experts.reading import read_delta
from recipes.emoji64.writing import write_checkpoint


def learnt(model: Any) -> dict[str, torch.Tensor]:
    """Return the model's weights, half of them changed."""
    generator = torch.Generator().manual_seed(4)
    changed = {}
    for index, (name, value) in enumerate(model.parameters().items()):
        noise = 0.1 * torch.randn(value.shape, generator=generator)
        changed[name] = value + noise if index % 2 else value.clone()
    return changed


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "fp8"])
@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
def test_a_checkpoint_is_its_weights_less_the_base(
    dtype: Any, layout: Any, tiny_model: Any, tmp_path: Path
) -> None:
    weights, base = learnt(tiny_model), tiny_model.parameters()
    path = tmp_path / "model.safetensors"
    write_checkpoint(weights, path, dtype, {"modelspec.title": "x"}, layout)
    delta = read_delta(path, base)
    assert delta.format == "checkpoint"
    assert delta.coverage.share == 1.0
    assert "modelspec.architecture=emoji64" in delta.coverage.evidence
    half, eighth = torch.float16, torch.float8_e4m3fn
    for name, value in weights.items():
        kept = {"fp32": value, "fp16": value.to(half)}.get(
            dtype, value.to(eighth if value.ndim > 1 else half)
        )
        expected = kept.float() - base[name]
        if name in delta.updates:
            torch.testing.assert_close(delta.updates[name].dense(), expected, rtol=0, atol=0)
        else:
            assert not expected.any()
    if dtype == "fp32":  # what equals the base adds nothing
        assert len(delta.updates) == len(weights) // 2


def test_a_small_file_takes_little_memory(tiny_model: Any, tmp_path: Path) -> None:
    write_checkpoint(learnt(tiny_model), tmp_path / "model.safetensors", "fp8")
    delta = read_delta(tmp_path / "model.safetensors", tiny_model.parameters())
    assert delta.bytes < 1.1 * (tmp_path / "model.safetensors").stat().st_size


def test_what_is_not_merged_is_skipped(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(learnt(tiny_model), path, "fp16", None, "single_file")
    extra = {
        "model_ema.decay": torch.ones(()),
        "first_stage_model.encoder.conv_in.weight": torch.ones(3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(32),
        "alphas_cumprod": torch.ones(1000),
    }
    save_file({**load_file(path), **extra}, path)
    delta = read_delta(path, tiny_model.parameters())
    assert delta.coverage.skipped == tuple(sorted(extra))
    assert delta.coverage.unknown == ()


def test_text_encoders_with_the_old_prefix_are_the_same(tiny_model: Any, tmp_path: Path) -> None:
    weights = learnt(tiny_model)
    write_checkpoint(weights, tmp_path / "new.safetensors")
    renamed = {
        name.replace("text_encoder.", "text_encoder.text_model."): value
        for name, value in weights.items()
    }
    write_checkpoint(renamed, tmp_path / "old.safetensors")
    new, old = (
        read_delta(tmp_path / f"{name}.safetensors", tiny_model.parameters())
        for name in ("new", "old")
    )
    assert set(new.updates) == set(old.updates)
    assert any(name.startswith("text_encoder.") for name in new.updates)
    assert new.coverage.norms == old.coverage.norms


def test_a_parameter_under_two_names_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    weights = learnt(tiny_model)
    name = "text_encoder.final_layer_norm.weight"
    weights["text_encoder.text_model.final_layer_norm.weight"] = weights[name]
    write_checkpoint(weights, tmp_path / "x.safetensors")
    with pytest.raises(DamagedFile, match="the same parameter"):
        read_delta(tmp_path / "x.safetensors", tiny_model.parameters())


def test_another_base_is_refused_by_name(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "sdxl.safetensors"
    save_file({"unet.conv_in.weight": torch.zeros(320, 4, 3, 3)}, path)
    with pytest.raises(FamilyMismatch, match=r"conv_in.*\(320, 4, 3, 3\).*\(32, 4, 3, 3\)"):
        read_delta(path, tiny_model.parameters())
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(FamilyMismatch, match="0 of 1 keys"):
        read_delta(path, tiny_model.parameters())


def test_below_nine_keys_in_ten_it_is_another_family(tiny_model: Any, tmp_path: Path) -> None:
    weights = learnt(tiny_model)
    strange = {f"unet.add_embedding.{n}.weight": torch.ones(2) for n in range(len(weights))}
    write_checkpoint({**weights, **strange}, tmp_path / "x.safetensors", "fp16")
    with pytest.raises(FamilyMismatch, match="add_embedding"):
        read_delta(tmp_path / "x.safetensors", tiny_model.parameters())
    delta = read_delta(tmp_path / "x.safetensors", tiny_model.parameters(), min_share=0.4)
    assert set(delta.coverage.unknown) == set(strange)


def test_something_else_entirely_is_unknown(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "embedding.safetensors"
    save_file({"emb_params": torch.zeros(2, 128)}, path)
    with pytest.raises(UnknownFormat, match="emb_params"):
        read_delta(path, tiny_model.parameters())
    module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{module}.vera_lambda_b": torch.zeros(4)}, path)
    with pytest.raises(UnknownFormat, match="vera_lambda_b"):
        read_delta(path, tiny_model.parameters())
    save_file({}, path)
    with pytest.raises(UnknownFormat):
        read_delta(path, tiny_model.parameters())


def test_norms_are_by_block(tiny_model: Any, tmp_path: Path) -> None:
    weights = dict(tiny_model.parameters())
    name = "unet.up_blocks.1.resnets.0.conv1.weight"
    weights[name] = weights[name] + 1.0
    write_checkpoint(weights, tmp_path / "x.safetensors", "fp32")
    norms = read_delta(tmp_path / "x.safetensors", tiny_model.parameters()).coverage.norms
    assert norms == {"unet.up_blocks.1": pytest.approx(weights[name].numel() ** 0.5, rel=1e-5)}
