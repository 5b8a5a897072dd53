"""Which parameters does a Stable Diffusion model have, and of which shapes?

Read off the configurations in its folder alone, so that a file can be held against them without a
library of models: building one takes seconds and hundreds of megabytes. What counts is what
diffusers and transformers build from the same configurations.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffgraph.errors import MissingInput

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Parameter of a component, by diffusers' name -> its shape."""

DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True, "DownEncoderBlock2D": False}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True, "UpDecoderBlock2D": False}
"""The kinds of blocks there are, and whether they attend to the prompt."""

TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
}
"""transformers writes down only what differs."""


def component_shapes(folder: Path, component: str) -> Shapes:
    """Return the shapes of `unet`, `vae` or `text_encoder` by its configuration.

    Args:
        folder: in the diffusers layout; no weights are needed.
        component: one of the three.

    Raises:
        MissingInput: there is no configuration, or it describes another architecture.
    """
    path = folder / component / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return dict(COMPONENTS[component](config))
    except OSError as error:
        raise MissingInput(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MissingInput(
            f"{path} does not describe the {component} of a Stable Diffusion 1 model: "
            f"{type(error).__name__} {error}"
        ) from error


def _unet(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    context, time = config["cross_attention_dim"], 4 * channels[0]
    matrix = bool(config.get("use_linear_projection", False))
    yield from _conv("conv_in", channels[0], config["in_channels"])
    yield from _linear("time_embedding.linear_1", time, channels[0])
    yield from _linear("time_embedding.linear_2", time, time)
    before = [channels[0], *channels]
    last = len(channels) - 1
    for number, kind in enumerate(config["down_block_types"]):
        head, width = f"down_blocks.{number}", channels[number]
        for layer in range(layers):
            seen = width if layer else before[number]
            yield from _resnet(f"{head}.resnets.{layer}", width, seen, time)
            if DOWN[kind]:
                yield from _transformer(f"{head}.attentions.{layer}", width, context, matrix)
        if number != last:
            yield from _conv(f"{head}.downsamplers.0.conv", width, width)
    for layer in range(2):
        yield from _resnet(f"mid_block.resnets.{layer}", channels[-1], channels[-1], time)
    yield from _transformer("mid_block.attentions.0", channels[-1], context, matrix)
    skipped = [channels[0], *(c for width in channels for c in [width] * (layers + 1))][:-1]
    seen = channels[-1]
    for number, kind in enumerate(config["up_block_types"]):
        head, width = f"up_blocks.{number}", channels[last - number]
        for layer in range(layers + 1):
            # what the way down saw at this place comes in beside what the block before made
            yield from _resnet(f"{head}.resnets.{layer}", width, seen + skipped.pop(), time)
            seen = width
            if UP[kind]:
                yield from _transformer(f"{head}.attentions.{layer}", width, context, matrix)
        if number != last:
            yield from _conv(f"{head}.upsamplers.0.conv", width, width)
    yield from _norm("conv_norm_out", channels[0])
    yield from _conv("conv_out", config["out_channels"], channels[0])


def _autoencoder(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    latent = config["latent_channels"]
    yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    yield from _conv("post_quant_conv", latent, latent, 1)
    for side, kinds, known, sampler, first, out, count in (
        ("encoder", "down", DOWN, "downsamplers", config["in_channels"], 2 * latent, layers),
        ("decoder", "up", UP, "upsamplers", latent, config["out_channels"], layers + 1),
    ):
        widths = channels if side == "encoder" else channels[::-1]
        yield from _conv(f"{side}.conv_in", widths[0], first)
        for number, (seen, width) in enumerate(pairwise([widths[0], *widths])):
            head = f"{side}.{kinds}_blocks.{number}"
            if known[config[f"{kinds}_block_types"][number]]:
                raise ValueError("its autoencoder attends to prompts")
            for layer in range(count):
                yield from _resnet(f"{head}.resnets.{layer}", width, width if layer else seen)
            if number != len(widths) - 1:
                yield from _conv(f"{head}.{sampler}.0.conv", width, width)
        for layer in range(2):
            yield from _resnet(f"{side}.mid_block.resnets.{layer}", channels[-1], channels[-1])
        attention = f"{side}.mid_block.attentions.0"
        yield from _norm(f"{attention}.group_norm", channels[-1])
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"{attention}.{name}", channels[-1], channels[-1])
        yield from _norm(f"{side}.conv_norm_out", widths[-1])
        yield from _conv(f"{side}.conv_out", out, widths[-1])


def _text_encoder(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    stated = TEXT_DEFAULTS | {key: config[key] for key in TEXT_DEFAULTS if key in config}
    width, inner = stated["hidden_size"], stated["intermediate_size"]
    yield "embeddings.token_embedding.weight", (stated["vocab_size"], width)
    yield "embeddings.position_embedding.weight", (stated["max_position_embeddings"], width)
    for number in range(stated["num_hidden_layers"]):
        head = f"encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{head}.self_attn.{name}", width, width)
        yield from _norm(f"{head}.layer_norm1", width)
        yield from _linear(f"{head}.mlp.fc1", inner, width)
        yield from _linear(f"{head}.mlp.fc2", width, inner)
        yield from _norm(f"{head}.layer_norm2", width)
    yield from _norm("final_layer_norm", width)


def _resnet(head: str, out: int, seen: int, time: int = 0) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{head}.norm1", seen)
    yield from _conv(f"{head}.conv1", out, seen)
    if time:
        yield from _linear(f"{head}.time_emb_proj", out, time)
    yield from _norm(f"{head}.norm2", out)
    yield from _conv(f"{head}.conv2", out, out)
    if out != seen:
        yield from _conv(f"{head}.conv_shortcut", out, seen, 1)


def _transformer(head: str, width: int, context: int, matrix: bool) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{head}.norm", width)
    for name in ("proj_in", "proj_out"):
        path = f"{head}.{name}"
        yield from _linear(path, width, width) if matrix else _conv(path, width, width, 1)
    block = f"{head}.transformer_blocks.0"
    for name, seen in (("attn1", width), ("attn2", context)):
        yield f"{block}.{name}.to_q.weight", (width, width)
        yield f"{block}.{name}.to_k.weight", (width, seen)
        yield f"{block}.{name}.to_v.weight", (width, seen)
        yield from _linear(f"{block}.{name}.to_out.0", width, width)
    yield from _linear(f"{block}.ff.net.0.proj", 8 * width, width)  # gates and values
    yield from _linear(f"{block}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        yield from _norm(f"{block}.norm{number}", width)


def _conv(path: str, out: int, seen: int, kernel: int = 3) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.weight", (out, seen, kernel, kernel)
    yield f"{path}.bias", (out,)


def _linear(path: str, out: int, seen: int) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.weight", (out, seen)
    yield f"{path}.bias", (out,)


def _norm(path: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.weight", (width,)
    yield f"{path}.bias", (width,)


COMPONENTS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, Shape]]]] = {
    "unet": _unet,
    "text_encoder": _text_encoder,
    "vae": _autoencoder,
}
