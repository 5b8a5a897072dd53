"""What a file holds beside the factors is read where it can be, and told where it cannot."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from diffgraph.errors import DamagedFile, FamilyMismatch
from tests.diffgraph.experts.samples import assert_close, draw, read

DOUBLE = "transformer.transformer_blocks.0.attn"
SINGLE = "transformer.single_transformer_blocks.0"
WIDTH = 8
FLUX: Mapping[str, torch.Tensor] = {
    name: draw(seed, *shape).float()
    for seed, (name, shape) in enumerate(
        {
            **{f"{DOUBLE}.to_{part}.weight": (WIDTH, WIDTH) for part in "qkv"},
            **{f"{DOUBLE}.add_{part}_proj.weight": (WIDTH, WIDTH) for part in "qkv"},
            f"{DOUBLE}.norm_q.weight": (4,),
            f"{DOUBLE}.norm_added_k.weight": (4,),
            **{f"{SINGLE}.attn.to_{part}.weight": (WIDTH, WIDTH) for part in "qkv"},
            f"{SINGLE}.proj_mlp.weight": (4 * WIDTH, WIDTH),
            f"{SINGLE}.attn.norm_k.weight": (4,),
        }.items()
    )
}
"""A corner of FLUX's transformer, without text encoders."""

CLIP = {
    "text_encoder.encoder.layers.0.mlp.fc1.weight": draw(1, 20, 10).float(),
    "text_encoder.encoder.layers.0.mlp.fc2.weight": draw(2, 10, 20).float(),
}


def lora(stem: str, rows: int, columns: int = WIDTH) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.lora_down.weight": draw(5, 2, columns),
        f"{stem}.lora_up.weight": draw(6, rows, 2),
        f"{stem}.alpha": torch.tensor(1.0),
    }


TRANSFORMER = {
    **lora("lora_unet_double_blocks_0_img_attn_qkv", 3 * WIDTH),
    **lora("lora_unet_double_blocks_0_txt_attn_qkv", 3 * WIDTH),
    **lora("lora_unet_single_blocks_0_linear1", 7 * WIDTH),
}
ENCODERS = {
    "kohya": "lora_te1_text_model_encoder_layers_{}_mlp_fc1",
    "kohya of SD 1.x": "lora_te_text_model_encoder_layers_{}_mlp_fc1",
    "diffusers": "text_encoder.text_model.encoder.layers.{}.mlp.fc1",
    "ComfyUI": "text_encoders.clip_l.transformer.text_model.encoder.layers.{}.mlp.fc1",
    "PEFT": "base_model.model.text_model.encoder.layers.{}.mlp.fc1",
}


@pytest.mark.parametrize("stem", ENCODERS.values(), ids=ENCODERS.keys())
def test_keys_for_an_encoder_that_the_base_lacks_are_left_out_and_told(
    stem: str, tmp_path: Path
) -> None:
    """However many they are: the transformer's part is as good without them."""
    clip = {key: value for n in range(12) for key, value in lora(stem.format(n), 20, 10).items()}
    delta = read(tmp_path, TRANSFORMER | clip, FLUX)
    alone = read(tmp_path, TRANSFORMER, FLUX)
    assert set(delta.updates) == set(alone.updates)
    for name, update in alone.updates.items():
        assert torch.equal(delta.updates[name].dense(), update.dense())
    report = delta.coverage.report()
    assert report.absent == {"text_encoder": 36}
    assert report.unknown == 0
    assert not report.is_whole
    assert report.told.endswith("left out: 36 for text_encoder, which the base lacks")
    both = read(tmp_path, TRANSFORMER | lora(stem.format(0), 20, 10), FLUX | CLIP)
    assert both.coverage.report().is_whole
    assert "text_encoder.encoder.layers.0.mlp.fc1.weight" in both.updates


@pytest.mark.parametrize("prefix", ["lora_te2_", "lora_te3_"])
def test_the_second_encoder_may_be_absent_alone(prefix: str, tmp_path: Path) -> None:
    t5 = lora(f"{prefix}encoder_block_0_layer_0_SelfAttention_q", 20, 10)
    delta = read(tmp_path, TRANSFORMER | t5, FLUX | CLIP)
    assert delta.coverage.absent == {"text_encoder_2": 3}


def test_a_file_for_an_absent_encoder_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FamilyMismatch, match="for text_encoder alone, which the base lacks"):
        read(tmp_path, lora(ENCODERS["kohya"].format(0), 20, 10), FLUX)


def test_a_checkpoint_with_encoders_fits_a_base_without_them(tmp_path: Path) -> None:
    unet = {"unet.mid_block.attentions.0.to_q.weight": draw(1, 24, 12).float()}
    encoder = "cond_stage_model.transformer.text_model.encoder.layers"
    clip = {f"{encoder}.{n}.mlp.fc1.weight": draw(n, 20, 10) for n in range(12)}
    whole = {"unet.mid_block.attentions.0.to_q.weight": draw(2, 24, 12)}
    delta = read(tmp_path, whole | clip, unet)
    assert delta.format == "checkpoint"
    assert delta.coverage.absent == {"text_encoder": 12}


NORMS = {
    "double_blocks.0.img_attn.norm.query_norm": f"{DOUBLE}.norm_q.weight",
    "double_blocks.0.txt_attn.norm.key_norm": f"{DOUBLE}.norm_added_k.weight",
    "single_blocks.0.norm.key_norm": f"{SINGLE}.attn.norm_k.weight",
}


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model.", "transformer."])
@pytest.mark.parametrize("last", ["scale", "set_weight", "weight"])
def test_norms_of_flux_stored_whole_replace_the_bases(
    last: str, prefix: str, tmp_path: Path
) -> None:
    whole = {f"{prefix}{name}.{last}": draw(9, 4) for name in NORMS}
    delta = read(tmp_path, TRANSFORMER | whole, FLUX)
    for ours in NORMS.values():
        assert_close(delta.updates[ours].dense(), draw(9, 4) - FLUX[ours].double())
    assert delta.coverage.report().is_whole


def test_a_weight_that_is_set_replaces_the_bases_even_fused(tmp_path: Path) -> None:
    whole = draw(9, 3 * WIDTH, WIDTH)
    delta = read(tmp_path, {"diffusion_model.double_blocks.0.img_attn.qkv.set_weight": whole}, FLUX)
    for at, part in enumerate("qkv"):
        name = f"{DOUBLE}.to_{part}.weight"
        expected = whole[at * WIDTH : (at + 1) * WIDTH] - FLUX[name].double()
        assert_close(delta.updates[name].dense(), expected)


def test_a_whole_value_of_another_size_is_refused(tmp_path: Path) -> None:
    """A widened input, as structural adapters bring it: its model is another."""
    wide = {"diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale": draw(1, 6)}
    with pytest.raises(FamilyMismatch, match=r"is \(6,\), the base model's .* is \(4,\)"):
        read(tmp_path, TRANSFORMER | wide, FLUX)


def test_what_is_set_cannot_be_rescaled_by_another_key(tmp_path: Path) -> None:
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    dora = {f"{stem}.dora_scale": draw(3, 3 * WIDTH, 1), f"{stem}.set_weight": draw(1, 24, WIDTH)}
    with pytest.raises(DamagedFile, match="the whole of what another key changes"):
        read(tmp_path, TRANSFORMER | dora, FLUX)


def test_a_module_that_the_base_lacks_is_told(tmp_path: Path) -> None:
    tensors = TRANSFORMER | lora("lora_unet_single_blocks_0_linear2", WIDTH)
    del tensors["lora_unet_single_blocks_0_linear2.alpha"]
    tensors |= {f"lora_unet_vae_{n}.alpha": torch.tensor(1.0) for n in range(3)}
    names = [key for key in tensors if "linear2" in key]
    more = {f"lora_unet_double_blocks_0_txt_attn_qkv.{role}": draw(1, 24, 8) for role in ("diff",)}
    with pytest.raises(FamilyMismatch, match="10 of 12 keys fit the base model"):
        read(tmp_path, tensors | more, FLUX)
    del tensors[names[0]]
    report = read(tmp_path, tensors | more, FLUX).coverage.report()
    assert report.unknown == 1
    assert report.told == (f"10 keys → 10 parameters; left out: 1 unknown, {names[1]!r} for one")
