"""LoRA and LoCon: a low-rank product for linear layers and convolutions.

https://arxiv.org/abs/2106.09685. LoCon is LoRA on convolutions; with a `lora_mid` the convolution
is a Tucker decomposition, whose core is multiplied into the right factor.
"""

from torch import Tensor

from diffgraph.experts.formats.adapter import AdapterFormat, ModuleTensors
from diffgraph.experts.updates import DenseUpdate, LowRankUpdate

DOWN_UP = {  # kohya; PEFT; diffusers, newest first
    ".lora_down.weight": ".lora_up.weight",
    ".lora_A.weight": ".lora_B.weight",
    ".lora.down.weight": ".lora.up.weight",
    ".lora_linear_layer.down.weight": ".lora_linear_layer.up.weight",
    ".down.weight": ".up.weight",
}


def build(parts: ModuleTensors, base: Tensor) -> LowRankUpdate:
    """Return `alpha / rank * up @ down`."""
    up, down = parts.factors("up", "down", "mid", base.shape)
    return LowRankUpdate(up, down, parts.scale(parts["down"].shape[0]), base.shape)


def build_bias(parts: ModuleTensors, base: Tensor) -> DenseUpdate:
    """Return `alpha / rank` times the bias of the left factor."""
    value = parts.vector("up_bias", base.numel())
    return DenseUpdate(value.float() * parts.scale(parts.matrix("down").shape[0]))


def build_embedding(parts: ModuleTensors, base: Tensor) -> LowRankUpdate:
    """Return `alpha / rank * (B @ A)^T`: PEFT lays an embedding's factors out the other way."""
    up, down = parts.product("embedding_up", "embedding_down")
    parts.fits((down.shape[1], up.shape[0]), base.shape)
    return LowRankUpdate(down.T, up.T, parts.scale(down.shape[0]), base.shape)


LORA = AdapterFormat(
    name="lora",
    suffixes={
        **dict.fromkeys(DOWN_UP, "down"),
        **dict.fromkeys(DOWN_UP.values(), "up"),
        ".lora_mid.weight": "mid",
    },
    marks=("down", "up"),
    build=build,
)

LORA_BIAS = AdapterFormat(
    name="lora",
    suffixes={".lora_B.bias": "up_bias"},
    marks=("up_bias",),
    build=build_bias,
    touches="bias",
)
"""PEFT's `lora_bias`: the left factor is a layer with a bias of its own."""

LORA_EMBEDDING = AdapterFormat(
    name="lora",
    suffixes={".lora_embedding_A": "embedding_down", ".lora_embedding_B": "embedding_up"},
    marks=("embedding_down", "embedding_up"),
    build=build_embedding,
)
