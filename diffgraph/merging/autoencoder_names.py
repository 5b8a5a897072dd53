"""What does a single-file checkpoint call the tensors of its autoencoder?

As the first Stable Diffusion code, which counts the decoder's blocks from the other end:
https://github.com/CompVis/stable-diffusion/blob/main/ldm/modules/diffusionmodules/model.py
"""

import re
from collections.abc import Iterable

PREFIX = "first_stage_model."
RESNET = {"conv_shortcut": "nin_shortcut"}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",  # as diffusers before 0.18 named them
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
INNER = re.compile(
    r"(?P<side>encoder|decoder)\.(?:(?:down|up)_blocks\.(?P<block>\d+)|mid_block)\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<layer>\d+)\.(?P<rest>.+)"
)


def autoencoder_key(key: str, blocks: int) -> str:
    """Return what a single-file checkpoint calls a tensor of the autoencoder.

    The first code counts the decoder's `blocks` from the other end.
    """
    path = key.replace("conv_norm_out", "norm_out")
    match = INNER.fullmatch(path)
    if match is None:
        return PREFIX + path
    side, kind, layer, rest = match["side"], match["kind"], int(match["layer"]), match["rest"]
    if match["block"] is None:
        inner = f"attn_{layer + 1}" if kind == "attentions" else f"block_{layer + 1}"
        return f"{PREFIX}{side}.mid.{inner}.{_renamed(rest)}"
    block = int(match["block"])
    way = f"down.{block}" if side == "encoder" else f"up.{blocks - 1 - block}"
    if kind == "resnets":
        return f"{PREFIX}{side}.{way}.block.{layer}.{_renamed(rest)}"
    sampler = "downsample" if kind == "downsamplers" else "upsample"
    return f"{PREFIX}{side}.{way}.{sampler}.{rest}"


def decoder_blocks(keys: Iterable[str]) -> int:
    """Return how many blocks a decoder has whose tensors these are by diffusers' names."""
    numbers = [
        int(match["block"])
        for key in keys
        if (match := INNER.fullmatch(key)) and match["block"] and match["side"] == "decoder"
    ]
    return max(numbers, default=-1) + 1


def _renamed(rest: str) -> str:
    for ours, theirs in (ATTENTION | RESNET).items():
        if rest.startswith(f"{ours}."):
            return theirs + rest.removeprefix(ours)
    return rest
