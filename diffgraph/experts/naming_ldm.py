"""What are our parameters called in a single-file checkpoint?

Such files keep the names of the first Stable Diffusion code, which numbers the UNet's blocks:
https://github.com/CompVis/stable-diffusion/blob/main/ldm/modules/diffusionmodules/openaimodel.py
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from diffgraph.experts.naming import KOHYA_PREFIXES, Naming

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
SHORTER = ("diffusion_model.", "")

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
INNER = re.compile(
    r"(?:(?P<way>down|up)_blocks\.(?P<block>\d+)|mid_block)\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<layer>\d+)\.(?P<rest>.+)"
)


@dataclass(frozen=True)
class UNetLayout:
    """How many layers the blocks of a UNet have, read off its names."""

    down_layers: int
    up_layers: int
    attending: frozenset[int]  # the up blocks that have attention

    @classmethod
    def of(cls, names: Iterable[str]) -> "UNetLayout":
        layers = {"down": 0, "up": 0}
        attending = set()
        for name in names:
            match = INNER.fullmatch(name.removeprefix("unet."))
            if match is None or match["way"] is None:
                continue
            if match["kind"] == "resnets":
                layers[match["way"]] = max(layers[match["way"]], int(match["layer"]) + 1)
            elif match["way"] == "up" and match["kind"] == "attentions":
                attending.add(int(match["block"]))
        return cls(layers["down"], layers["up"], frozenset(attending))

    def path(self, path: str) -> str | None:
        """Return the single-file path of a UNet's module or parameter."""
        for ours, theirs in OUTER.items():
            if path == ours or path.startswith(f"{ours}."):
                return theirs + path.removeprefix(ours)
        match = INNER.fullmatch(path)
        if match is None:
            return None
        kind, layer, rest = match["kind"], int(match["layer"]), match["rest"]
        attends = int(kind == "attentions")
        if kind == "resnets":
            head, dot, tail = rest.partition(".")
            rest = RESNET.get(head, head) + dot + tail
        if match["way"] is None:
            return f"middle_block.{1 if attends else 2 * layer}.{rest}"
        block = int(match["block"])
        if kind == "downsamplers":
            rest = rest.replace("conv", "op", 1)
            return f"input_blocks.{(block + 1) * (self.down_layers + 1)}.0.{rest}"
        if kind == "upsamplers":
            behind = 2 if block in self.attending else 1
            return f"output_blocks.{(block + 1) * self.up_layers - 1}.{behind}.{rest}"
        if match["way"] == "down":
            return f"input_blocks.{1 + block * (self.down_layers + 1) + layer}.{attends}.{rest}"
        return f"output_blocks.{block * self.up_layers + layer}.{attends}.{rest}"


def ldm(names: Iterable[str]) -> Naming:
    """Return the names in single-file checkpoints of a model, the full name first.

    A UNet alone is also saved with a shorter prefix, or none.
    """
    layout = UNetLayout.of(names)

    def vocabulary(name: str) -> Iterator[str]:
        component, _, path = name.partition(".")
        if component == "text_encoder":
            yield f"{TEXT}text_model.{path}"
            yield f"{TEXT}{path}"
        elif component == "unet" and (renamed := layout.path(path)):
            for prefix in (UNET, *SHORTER):
                yield prefix + renamed

    return vocabulary


def kohya_ldm(names: Iterable[str]) -> Naming:
    """Return kohya's names over a single-file checkpoint's: `lora_unet_input_blocks_1_1_…`."""
    single_file = ldm(names)

    def vocabulary(name: str) -> Iterator[str]:
        for form in single_file(name):
            if form.startswith(UNET):
                for prefix in KOHYA_PREFIXES["unet"]:
                    yield prefix + form.removeprefix(UNET).replace(".", "_")

    return vocabulary
