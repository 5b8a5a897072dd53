"""Key lists of the true sizes, from the original layouts' own formulas: all are understood.

Nothing here is derived from our tables, so a wrong row of theirs is found.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from diffgraph.experts.formats.checkpoint import is_skipped
from diffgraph.experts.naming_index import KeyIndex, key_index

CLIP_WIDTH, T5_WIDTH = 768, 4096


def clip() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=CLIP_WIDTH,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
        )
    )


def named(**components: Any) -> dict[str, torch.Tensor]:
    return {
        f"{component}.{name}": value
        for component, module in components.items()
        for name, value in module.named_parameters()
    }


@pytest.fixture(scope="module")
def sd15() -> dict[str, torch.Tensor]:
    """Stable Diffusion 1.5's parameters without their numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=CLIP_WIDTH, attention_head_dim=8)
        return named(unet=unet, text_encoder=clip())


@pytest.fixture(scope="module")
def flux() -> dict[str, torch.Tensor]:
    """FLUX.1 dev's parameters without their numbers."""
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    t5 = T5Config(
        vocab_size=32128,
        d_model=T5_WIDTH,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        return named(
            transformer=FluxTransformer2DModel(guidance_embeds=True),
            text_encoder=clip(),
            text_encoder_2=T5EncoderModel(t5),
        )


# -- Stable Diffusion's first code: a list of blocks, numbered as they are built


Keys = Iterator[tuple[str, tuple[int, ...]]]
WIDTH, MULTIPLES, LAYERS, ATTENDING, TIME = 320, (1, 2, 4, 4), 2, (1, 2, 4), 1280


def linear(name: str, out: int, inner: int, *kernel: int) -> Keys:
    yield f"{name}.weight", (out, inner, *kernel)
    yield f"{name}.bias", (out,)


def norm(name: str, size: int) -> Keys:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def residual(name: str, inner: int, out: int) -> Keys:
    yield from norm(f"{name}.in_layers.0", inner)
    yield from linear(f"{name}.in_layers.2", out, inner, 3, 3)
    yield from linear(f"{name}.emb_layers.1", out, TIME)
    yield from norm(f"{name}.out_layers.0", out)
    yield from linear(f"{name}.out_layers.3", out, out, 3, 3)
    if inner != out:
        yield from linear(f"{name}.skip_connection", out, inner, 1, 1)


def attending(name: str, size: int) -> Keys:
    yield from norm(f"{name}.norm", size)
    yield from linear(f"{name}.proj_in", size, size, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", size), ("attn2", CLIP_WIDTH)):
        yield f"{block}.{attention}.to_q.weight", (size, size)
        yield f"{block}.{attention}.to_k.weight", (size, context)
        yield f"{block}.{attention}.to_v.weight", (size, context)
        yield from linear(f"{block}.{attention}.to_out.0", size, size)
    yield from linear(f"{block}.ff.net.0.proj", 8 * size, size)
    yield from linear(f"{block}.ff.net.2", size, 4 * size)
    for number in (1, 2, 3):
        yield from norm(f"{block}.norm{number}", size)
    yield from linear(f"{name}.proj_out", size, size, 1, 1)


def openai_unet() -> Keys:
    """Yield the UNet's keys as openaimodel.py makes them for SD1.5, with their shapes."""
    kept: list[int] = []  # the channels of what the way up will see again
    yield from linear("time_embed.0", TIME, WIDTH)
    yield from linear("time_embed.2", TIME, TIME)
    yield from way_down(kept)
    size = kept[-1]
    yield from residual("middle_block.0", size, size)
    yield from attending("middle_block.1", size)
    yield from residual("middle_block.2", size, size)
    yield from way_up(kept, size)
    yield from norm("out.0", WIDTH)
    yield from linear("out.2", 4, WIDTH, 3, 3)


def way_down(kept: list[int]) -> Keys:
    yield from linear("input_blocks.0.0", WIDTH, 4, 3, 3)
    kept.append(WIDTH)
    for level, multiple in enumerate(MULTIPLES):
        for _ in range(LAYERS):
            block = f"input_blocks.{len(kept)}"
            yield from residual(f"{block}.0", kept[-1], multiple * WIDTH)
            if 2**level in ATTENDING:
                yield from attending(f"{block}.1", multiple * WIDTH)
            kept.append(multiple * WIDTH)
        if level < len(MULTIPLES) - 1:
            yield from linear(f"input_blocks.{len(kept)}.0.op", kept[-1], kept[-1], 3, 3)
            kept.append(kept[-1])


def way_up(kept: list[int], size: int) -> Keys:
    number = 0
    for level, multiple in reversed(list(enumerate(MULTIPLES))):
        for layer in range(LAYERS + 1):
            block, behind = f"output_blocks.{number}", 1
            yield from residual(f"{block}.0", size + kept.pop(), multiple * WIDTH)
            size, number = multiple * WIDTH, number + 1
            if 2**level in ATTENDING:
                yield from attending(f"{block}.1", size)
                behind = 2
            if level and layer == LAYERS:
                yield from linear(f"{block}.{behind}.conv", size, size, 3, 3)


def openai_clip() -> Keys:
    """Yield the text encoder's keys as checkpoints of SD1.5 have them."""
    yield "embeddings.token_embedding.weight", (49408, CLIP_WIDTH)
    yield "embeddings.position_embedding.weight", (77, CLIP_WIDTH)
    yield "embeddings.position_ids", (1, 77)
    for layer in range(12):
        for name, out, inner in (
            ("self_attn.k_proj", 768, 768),
            ("self_attn.v_proj", 768, 768),
            ("self_attn.q_proj", 768, 768),
            ("self_attn.out_proj", 768, 768),
            ("mlp.fc1", 3072, 768),
            ("mlp.fc2", 768, 3072),
        ):
            yield f"encoder.layers.{layer}.{name}.weight", (out, inner)
            yield f"encoder.layers.{layer}.{name}.bias", (out,)
        for name in ("layer_norm1", "layer_norm2"):
            yield f"encoder.layers.{layer}.{name}.weight", (768,)
            yield f"encoder.layers.{layer}.{name}.bias", (768,)
    yield "final_layer_norm.weight", (768,)
    yield "final_layer_norm.bias", (768,)


def assert_holds_all(
    names: KeyIndex, keys: dict[str, tuple[int, ...]], ours: dict[str, torch.Tensor]
) -> None:
    """Every key is understood, shapes agree, and together they make each of ours exactly once."""
    made: dict[str, int] = {}
    for key, shape in keys.items():
        rows = 0
        for placement in names.parameters[key]:
            base = ours[placement.name]
            taken = sum(stop - start for start, stop in placement.rows) or shape[0]
            assert (taken, *shape[1:]) == tuple(base.shape), key
            made[placement.name] = made.get(placement.name, 0) + 1
            rows += taken
        assert rows == shape[0], key
    assert made == dict.fromkeys(ours, 1)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_single_files_of_sd15(sd15: dict[str, torch.Tensor], prefix: str) -> None:
    unet = {f"model.diffusion_model.{name}": shape for name, shape in openai_unet()}
    text = {f"cond_stage_model.transformer.{prefix}{name}": shape for name, shape in openai_clip()}
    assert (len(unet), len(text)) == (686, 197)
    ids = f"cond_stage_model.transformer.{prefix}embeddings.position_ids"
    assert is_skipped(ids)
    del text[ids]
    assert_holds_all(key_index(sd15), unet | text, sd15)


def test_a_unet_alone_has_no_prefix(sd15: dict[str, torch.Tensor]) -> None:
    unet = {name: value for name, value in sd15.items() if name.startswith("unet.")}
    assert_holds_all(key_index(sd15), dict(openai_unet()), unet)
    bare = {name.removeprefix("unet."): tuple(value.shape) for name, value in unet.items()}
    assert_holds_all(key_index(sd15), bare, unet)


# -- FLUX: model.py of its makers


def flux_keys() -> Keys:
    """Yield the transformer's keys as its makers' model has them, with their shapes."""
    width, head, depth, mlp = 3072, 128, 64, 12288

    yield from linear("img_in", width, depth)
    yield from linear("txt_in", width, T5_WIDTH)
    for name, inner in (("time_in", 256), ("vector_in", CLIP_WIDTH), ("guidance_in", 256)):
        yield from linear(f"{name}.in_layer", width, inner)
        yield from linear(f"{name}.out_layer", width, width)
    for block in range(19):
        for side in ("img", "txt"):
            name = f"double_blocks.{block}.{side}"
            yield from linear(f"{name}_mod.lin", 6 * width, width)
            yield from linear(f"{name}_attn.qkv", 3 * width, width)
            yield f"{name}_attn.norm.query_norm.scale", (head,)
            yield f"{name}_attn.norm.key_norm.scale", (head,)
            yield from linear(f"{name}_attn.proj", width, width)
            yield from linear(f"{name}_mlp.0", mlp, width)
            yield from linear(f"{name}_mlp.2", width, mlp)
    for block in range(38):
        name = f"single_blocks.{block}"
        yield from linear(f"{name}.modulation.lin", 3 * width, width)
        yield from linear(f"{name}.linear1", 3 * width + mlp, width)
        yield from linear(f"{name}.linear2", width, width + mlp)
        yield f"{name}.norm.query_norm.scale", (head,)
        yield f"{name}.norm.key_norm.scale", (head,)
    yield from linear("final_layer.adaLN_modulation.1", 2 * width, width)
    yield from linear("final_layer.linear", depth, width)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_single_files_of_flux(flux: dict[str, torch.Tensor], prefix: str) -> None:
    keys = {prefix + name: shape for name, shape in flux_keys()}
    assert len(keys) == 780
    ours = {name: value for name, value in flux.items() if name.startswith("transformer.")}
    assert_holds_all(key_index(flux), keys, ours)


def test_flux_with_its_encoders_in_one_file(flux: dict[str, torch.Tensor]) -> None:
    clip_l, t5 = "text_encoders.clip_l.transformer.text_model.", "text_encoders.t5xxl.transformer."
    keys = {f"model.diffusion_model.{name}": shape for name, shape in flux_keys()}
    keys |= {clip_l + name: shape for name, shape in openai_clip() if not is_skipped(name)}
    for name, value in flux.items():
        if name.startswith("text_encoder_2."):
            keys[t5 + name.removeprefix("text_encoder_2.")] = tuple(value.shape)
    assert_holds_all(key_index(flux), keys, flux)


def test_diffusers_own_names(sd15: dict[str, torch.Tensor], flux: dict[str, torch.Tensor]) -> None:
    for ours in (sd15, flux):
        keys = {name: tuple(value.shape) for name, value in ours.items()}
        assert_holds_all(key_index(ours), keys, ours)


# -- Adapters


def kohya_sd15() -> Iterator[str]:
    """Yield the modules that kohya's trainer makes for SD1.5: 192 of the UNet, 72 of the text."""
    places = [(f"down_blocks_{block}", 2) for block in (0, 1, 2)]
    places += [("mid_block", 1), *((f"up_blocks_{block}", 3) for block in (1, 2, 3))]
    for place, layers in places:
        for layer in range(layers):
            name = f"lora_unet_{place}_attentions_{layer}"
            yield f"{name}_proj_in"
            yield f"{name}_proj_out"
            for attention in ("attn1", "attn2"):
                for part in ("to_q", "to_k", "to_v", "to_out_0"):
                    yield f"{name}_transformer_blocks_0_{attention}_{part}"
            yield f"{name}_transformer_blocks_0_ff_net_0_proj"
            yield f"{name}_transformer_blocks_0_ff_net_2"
    yield from kohya_clip("lora_te")


def kohya_clip(prefix: str) -> Iterator[str]:
    for layer in range(12):
        for part in ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj"):
            yield f"{prefix}_text_model_encoder_layers_{layer}_{part}"
        for part in ("self_attn_out_proj", "mlp_fc1", "mlp_fc2"):
            yield f"{prefix}_text_model_encoder_layers_{layer}_{part}"


def test_kohyas_modules_of_sd15(sd15: dict[str, torch.Tensor]) -> None:
    keys = list(kohya_sd15())
    assert len(keys) == 264
    modules = key_index(sd15).modules
    found = [modules[key] for key in keys]
    assert len(set(found)) == 264
    # with the blocks numbered as in a single file, too
    numbered = [
        f"lora_unet_{name.removesuffix('.weight')}"
        for name, shape in openai_unet()
        if name.endswith(".weight") and len(shape) > 1
    ]
    mapped = {modules[key.replace(".", "_")] for key in numbered}
    assert len(mapped) == len(numbered)
    assert {placements for placements in found if placements[0].name.startswith("unet.")} <= mapped


def test_kohyas_modules_of_flux(flux: dict[str, torch.Tensor]) -> None:
    modules = key_index(flux).modules
    keys = [
        f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        for name, _ in flux_keys()
        if name.endswith(".weight") and "_blocks." in name
    ]
    assert len(keys) == 304
    assert len({modules[key] for key in keys}) == 304
    assert len({modules[key] for key in kohya_clip("lora_te1")}) == 72
    t5 = [
        f"lora_te3_encoder_block_{block}_layer_{layer}_{part}"
        for block in range(24)
        for layer, parts in (
            (0, [f"SelfAttention_{letter}" for letter in "qkvo"]),
            (1, ["DenseReluDense_wi_0", "DenseReluDense_wi_1", "DenseReluDense_wo"]),
        )
        for part in parts
    ]
    assert len({modules[key] for key in t5}) == 24 * 7


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("unet.{block}.attn2.processor.to_k_lora", "unet.{block}.attn2.to_k"),
        ("{block}.attn1.processor.to_out_lora", "unet.{block}.attn1.to_out.0"),
        ("unet.{block}.attn2.to_k", "unet.{block}.attn2.to_k"),
        ("base_model.model.{block}.ff.net.2", "unet.{block}.ff.net.2"),
        ("base_model.model.unet.{block}.ff.net.2", "unet.{block}.ff.net.2"),
        ("lycoris_{under}_ff_net_2", "unet.{block}.ff.net.2"),
        ("oft_unet_{under}_attn1_to_v", "unet.{block}.attn1.to_v"),
        ("lora_te1_text_model_{layer_}_mlp_fc1", "text_encoder.{layer}.mlp.fc1"),
        (
            "text_encoder.text_model.{layer}.self_attn.to_v_lora",
            "text_encoder.{layer}.self_attn.v_proj",
        ),
        ("text_encoder.{layer}.self_attn.out_proj", "text_encoder.{layer}.self_attn.out_proj"),
        ("base_model.model.text_model.{layer}.mlp.fc2", "text_encoder.{layer}.mlp.fc2"),
    ],
)
def test_other_trainers_of_sd15(sd15: dict[str, torch.Tensor], key: str, ours: str) -> None:
    words = {
        "block": "down_blocks.1.attentions.0.transformer_blocks.0",
        "under": "down_blocks_1_attentions_0_transformer_blocks_0",
        "layer": "encoder.layers.7",
        "layer_": "encoder_layers_7",
    }
    (placement,) = key_index(sd15).modules[key.format(**words)]
    assert (placement.name, placement.rows) == (ours.format(**words), ())


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("transformer.single_transformer_blocks.3.attn.to_q", "{}"),
        ("transformer.transformer_blocks.3.ff_context.net.0.proj", "{}"),
        (
            "base_model.model.transformer_blocks.3.attn.to_k",
            "transformer.transformer_blocks.3.attn.to_k",
        ),
        (
            "diffusion_model.transformer_blocks.3.attn.to_k",
            "transformer.transformer_blocks.3.attn.to_k",
        ),
        ("lora_transformer_proj_out", "transformer.proj_out"),
        ("lora_unet_final_layer_linear", "transformer.proj_out"),
        (
            "lycoris_single_transformer_blocks_3_proj_mlp",
            "transformer.single_transformer_blocks.3.proj_mlp",
        ),
        (
            "base_model.model.single_blocks.3.linear2",
            "transformer.single_transformer_blocks.3.proj_out",
        ),
        ("diffusion_model.double_blocks.3.img_mlp.2", "transformer.transformer_blocks.3.ff.net.2"),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1",
            "text_encoder.encoder.layers.3.mlp.fc1",
        ),
    ],
)
def test_other_trainers_of_flux(flux: dict[str, torch.Tensor], key: str, ours: str) -> None:
    (placement,) = key_index(flux).modules[key]
    assert (placement.name, placement.rows) == (ours.format(key), ())
